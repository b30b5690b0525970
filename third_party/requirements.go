//go:build requirements

// Package thirdparty imports modules that are selected before the code that uses them exists, so
// that go mod tidy keeps their versions. It is never built.
package thirdparty

import (
	_ "github.com/suyashkumar/dicom" // for formats/dicom
)
