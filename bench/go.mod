module github.com/modfetch/modfetch/bench

go 1.26.0

require (
	github.com/klauspost/compress v1.20.3
	github.com/modfetch/modfetch v0.0.0
	golang.org/x/mod v0.42.0
	golang.org/x/sync v0.24.0
)

require (
	github.com/hashicorp/go-cleanhttp v0.5.2 // indirect
	github.com/hashicorp/go-retryablehttp v0.7.8 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/modfetch/modfetch => ../
