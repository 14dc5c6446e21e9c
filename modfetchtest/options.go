package modfetchtest

import "github.com/modfetch/modfetch"

// Options returns what a [modfetch.Fetcher] needs to use s alone: as its mirror, and as its checksum database.
func (s *Server) Options() []modfetch.Option {
	return []modfetch.Option{modfetch.WithGOPROXY(s.URL), modfetch.WithSumDB(s.GOSUMDB())}
}
