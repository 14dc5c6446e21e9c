package modfetch

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/module"
)

// A voucher is the answer to who vouches for a file: a hash on record, or the setting that exempts it.
type voucher struct {
	want       string // h1:
	by         string // "go.sum", or the name of the source that has want
	source     string // the same for messages: the file
	unverified string // the setting that exempts the file; want is "" then
	public     bool   // want is in an authenticated record of the public checksum database
}

// toolchainPath is the module whose zips are run as the go command itself: only the checksum database vouches for it.
const toolchainPath = "golang.org/toolchain"

// voucher asks go.sum, then the other sources, then the checksum database; a setting may exempt m from the last step.
// The error says why nobody can tell.
func (f *Fetcher) voucher(ctx context.Context, m module.Version) (voucher, error) {
	if m.Path == toolchainPath {
		if f.db == nil {
			return voucher{}, failf(ErrForbidden, "cannot verify %s: only a checksum database vouches for toolchains, and GOSUMDB is off", m)
		}
		return f.databaseVoucher(ctx, m)
	}
	if v, ok, err := f.localVoucher(ctx, m); ok || err != nil {
		return v, err
	}
	if setting := f.exemption(m.Path); setting != "" {
		if f.policy.RequireVerified {
			return voucher{}, failf(ErrForbidden, "cannot verify %s: %s exempts it from the checksum database, go.sum has no line for it, "+
				"and RequireVerified is set", m, setting)
		}
		return voucher{unverified: setting}, nil
	}
	return f.databaseVoucher(ctx, m)
}

// localVoucher answers from go.sum, else from the first other source that has m.
func (f *Fetcher) localVoucher(ctx context.Context, m module.Version) (v voucher, ok bool, err error) {
	if v, ok := f.goSumVoucher(ctx, m); ok {
		return v, true, nil
	}
	for _, s := range f.sums {
		sums, err := s.Sums(ctx, m)
		if errors.Is(err, ErrUnlisted) {
			continue
		}
		if err != nil {
			return voucher{}, false, diskError(m, fmt.Errorf("cannot verify %s: %s: %w", m, s, err))
		}
		if want := firstH1(sums); want != "" {
			return voucher{want: want, by: s.String(), source: s.String()}, true, nil
		}
	}
	return voucher{}, false, nil
}

// goSumVoucher answers from go.sum alone.
func (f *Fetcher) goSumVoucher(ctx context.Context, m module.Version) (voucher, bool) {
	if f.goSum == nil {
		return voucher{}, false
	}
	sums, err := f.goSum.Sums(ctx, m)
	if want := firstH1(sums); err == nil && want != "" {
		return voucher{want: want, by: "go.sum", source: f.goSum.String()}, true
	}
	return voucher{}, false
}

func (f *Fetcher) databaseVoucher(ctx context.Context, m module.Version) (voucher, error) {
	sums, err := f.db.Sums(ctx, m)
	if err != nil {
		return voucher{}, err
	}
	want := firstH1(sums)
	if want == "" {
		return voucher{}, failf(ErrSecurity, "cannot verify %s: the checksum database %s has a record of this version, but no h1: hash for this file", m, f.db)
	}
	return voucher{want: want, by: f.db.name, source: f.db.name, public: f.db.public}, nil
}

// exemption returns the setting by which a path is not looked up, or "".
func (f *Fetcher) exemption(path string) string {
	if rule := f.routes.rule(path); rule != nil {
		return fmt.Sprintf("WithRoute(%q)", rule.patterns)
	}
	if setting := matching(f.exempt, path); setting != "" {
		return setting
	}
	if f.db == nil {
		return "GOSUMDB=off"
	}
	return ""
}

// verdict holds a hash against a voucher, and against go.sum and other sources where those may only condemn.
func (f *Fetcher) verdict(ctx context.Context, v voucher, m module.Version, got, mirror string) error {
	if m.Path == toolchainPath {
		line, ok, err := f.localVoucher(ctx, m)
		if err != nil {
			return err
		}
		if ok && line.want != v.want {
			return &fatalError{&ChecksumError{Module: m, Got: v.want, Want: line.want, Source: line.source, Mirror: mirror, Blame: line.source}}
		}
	}
	if v.want == "" || v.want == got {
		f.trace.vouched(ctx, VouchInfo{Module: m, Sum: got, By: v.by, Unverified: v.unverified})
		return nil
	}
	err := &ChecksumError{Module: m, Got: got, Want: v.want, Source: v.source, Mirror: mirror}
	if v.by == "go.sum" && f.exemption(m.Path) == "" {
		// Bytes that the database vouches for are no mirror's fault.
		if record, dbErr := f.databaseVoucher(ctx, m); dbErr == nil && record.want == got {
			err.Blame = v.source
			return &fatalError{err}
		}
	}
	return err
}

// firstH1 returns the first hash of the only known algorithm, as the go command reads go.sum: a second, different one for
// the same file does not count.
func firstH1(sums []string) string {
	for _, s := range sums {
		if strings.HasPrefix(s, "h1:") {
			return s
		}
	}
	return ""
}
