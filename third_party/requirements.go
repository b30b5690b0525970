//go:build requirements

// Package thirdparty names the modules that are chosen before the code that uses them is written,
// so that go mod tidy keeps their versions. It is never built.
package thirdparty

import (
	_ "github.com/suyashkumar/dicom" // for formats/dicom
)
