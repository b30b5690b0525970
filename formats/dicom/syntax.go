package dicom

import (
	"regexp"

	"github.com/suyashkumar/dicom/pkg/uid"
)

// syntaxNames are those that the module's dictionary lacks.
var syntaxNames = map[string]string{
	"1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
	"1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
	"1.2.840.10008.1.2.4.112": "JPEG XL",
	"1.2.840.10008.1.2.4.201": "High-Throughput JPEG 2000 (Lossless Only)",
	"1.2.840.10008.1.2.4.202": "High-Throughput JPEG 2000 with RPCL Options (Lossless Only)",
	"1.2.840.10008.1.2.4.203": "High-Throughput JPEG 2000",
	"1.2.840.10008.1.2.8.1":   "Deflated Image Frame Compression",
}

var standardUID = regexp.MustCompile(`^1\.2\.840\.10008\.[0-9.]{1,40}$`)

// SyntaxName returns a transfer syntax as a message may show it: name and UID. Of what is no UID of
// the standard it shows nothing.
func SyntaxName(syntax string) string {
	name := syntaxNames[syntax]
	if info, err := uid.Lookup(syntax); err == nil && name == "" && info.Type == uid.TypeTransferSyntax {
		name = info.Name
	}
	switch {
	case !standardUID.MatchString(syntax):
		return "a transfer syntax that is not of the standard"
	case name == "":
		return "transfer syntax " + syntax
	}
	return name + " (" + syntax + ")"
}

// Native reports whether pixels in this transfer syntax are not compressed.
func Native(syntax string) bool {
	switch syntax {
	case implicitVR, explicitVR, bigEndianVR, deflatedExplicitVR:
		return true
	}
	return false
}

// StandardUID returns a UID that the standard defines, such as a transfer syntax, and "" for any
// other text.
func StandardUID(uid string) string {
	if standardUID.MatchString(uid) {
		return uid
	}
	return ""
}
