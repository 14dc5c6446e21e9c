package main

import (
	"testing"
	"time"
)

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 1050: "1.1 kB", 9940: "9.9 kB", 9960: "10 kB", 999_400: "999 kB",
		999_600: "1.0 MB", 8_800_000: "8.8 MB", 189_000_000: "189 MB", 1_060_000_000: "1.1 GB", 5e15: "5000 TB",
	} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0s", 340 * time.Millisecond: "0.3s", 9960 * time.Millisecond: "10s", 59400 * time.Millisecond: "59s",
		59600 * time.Millisecond: "1m00s", 125 * time.Second: "2m05s", 2*time.Hour + 3*time.Minute: "2h03m",
	} {
		if got := duration(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}
