package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/modfetch/modfetch"
	"golang.org/x/mod/semver"
)

// withNear adds to an error about a version that no mirror has the versions around it.
func withNear(ctx context.Context, f *modfetch.Fetcher, err error) error {
	var fetch *modfetch.FetchError
	if !errors.As(err, &fetch) || fetch.Module.Version == "" {
		return err
	}
	switch modfetch.KindOf(fetch) {
	case modfetch.NotFound, modfetch.Forbidden: // some mirrors refuse what they do not have
	default:
		return err
	}
	versions, listErr := f.Versions(ctx, fetch.Module.Path)
	if listErr != nil || slices.Contains(versions, fetch.Module.Version) {
		return err
	}
	if len(versions) == 0 {
		return fmt.Errorf("%w\n\tno mirror lists any version of %s", err, fetch.Module.Path)
	}
	return fmt.Errorf("%w\n\tversions near it: %s", err, strings.Join(near(versions, fetch.Module.Version), ", "))
}

// near returns up to three versions below v and two above it, and the highest, of versions in ascending order.
func near(versions []string, v string) []string {
	i, _ := slices.BinarySearchFunc(versions, v, semver.Compare)
	list := slices.Clone(versions[max(0, i-3):min(len(versions), i+2)])
	if highest := versions[len(versions)-1]; !slices.Contains(list, highest) {
		list = append(list, "... "+highest)
	}
	return list
}
