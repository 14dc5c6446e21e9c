package main

import (
	"encoding/json"
	"io"

	"github.com/modfetch/modfetch"
)

// A moduleJSON is what -json prints of a module: the fields of go mod download -json in their order, and ours.
type moduleJSON struct {
	Path     string           `json:",omitempty"`
	Version  string           `json:",omitempty"`
	Query    string           `json:",omitempty"`
	Error    string           `json:",omitempty"`
	Info     string           `json:",omitempty"`
	GoMod    string           `json:",omitempty"`
	Zip      string           `json:",omitempty"`
	Dir      string           `json:",omitempty"`
	Sum      string           `json:",omitempty"`
	GoModSum string           `json:",omitempty"`
	Origin   *modfetch.Origin `json:",omitempty"`

	Mirror          string `json:",omitempty"`
	VerifiedBy      string `json:",omitempty"`
	GoModVerifiedBy string `json:",omitempty"`
	Unverified      string `json:",omitempty"`
}

func printJSON(w io.Writer, object any) error {
	data, err := json.MarshalIndent(object, "", "\t")
	if err != nil {
		return err
	}
	_, err = w.Write(append(data, '\n'))
	return err
}
