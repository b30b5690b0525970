package codec

import (
	"fmt"
	"strings"
)

// A Syntax is a transfer syntax of DICOM (PS3.6, table A-1).
type Syntax struct {
	UID, Name string
	// the pixels lie in fragments, to be handed to Decode; otherwise they are in the data set as
	// they are
	Encapsulated bool

	method
}

// A method decodes a kind of codestream.
type method struct {
	check  func(codestream []byte, f Frame) error
	decode func(dst, codestream []byte, f Frame) error
	// why decode cannot be called here, or nil; nil itself: it always can
	available func() error
}

var syntaxes = table()

func table() map[string]Syntax {
	all := map[string]Syntax{}
	for uid, name := range names {
		native := uid == "" || uid == ".1" || uid == ".1.99" || uid == ".2"
		all[root+uid] = Syntax{UID: root + uid, Name: name, Encapsulated: !native,
			method: methods[uid]}
	}
	return all
}

const root = "1.2.840.10008.1.2"

var (
	lossless = method{check: checkLossless, decode: decodeLossless}
	jpegLS   = method{check: checkJPEGLS, decode: decodeJPEGLS}
	jpeg2000 = method{checkJPEG2000, decodeJPEG2000, availableJPEG2000}
	methods  = map[string]method{
		".5":     {check: checkRLE, decode: decodeRLE},
		".4.50":  {check: checkBaseline, decode: decodeBaseline},
		".4.57":  lossless,
		".4.70":  lossless,
		".4.80":  jpegLS,
		".4.81":  jpegLS,
		".4.90":  jpeg2000,
		".4.91":  jpeg2000,
		".4.201": jpeg2000,
		".4.202": jpeg2000,
		".4.203": jpeg2000,
	}
)

// names of the transfer syntaxes below root.
var names = map[string]string{
	"":         "Implicit VR Little Endian",
	".1":       "Explicit VR Little Endian",
	".1.98":    "Encapsulated Uncompressed Explicit VR Little Endian",
	".1.99":    "Deflated Explicit VR Little Endian",
	".2":       "Explicit VR Big Endian",
	".4.50":    "JPEG Baseline (Process 1)",
	".4.51":    "JPEG Extended (Process 2 and 4)",
	".4.52":    "JPEG Extended (Process 3 and 5)",
	".4.53":    "JPEG Spectral Selection, Non-Hierarchical (Process 6 and 8)",
	".4.54":    "JPEG Spectral Selection, Non-Hierarchical (Process 7 and 9)",
	".4.55":    "JPEG Full Progression, Non-Hierarchical (Process 10 and 12)",
	".4.56":    "JPEG Full Progression, Non-Hierarchical (Process 11 and 13)",
	".4.57":    "JPEG Lossless, Non-Hierarchical (Process 14)",
	".4.58":    "JPEG Lossless, Non-Hierarchical (Process 15)",
	".4.59":    "JPEG Extended, Hierarchical (Process 16 and 18)",
	".4.60":    "JPEG Extended, Hierarchical (Process 17 and 19)",
	".4.61":    "JPEG Spectral Selection, Hierarchical (Process 20 and 22)",
	".4.62":    "JPEG Spectral Selection, Hierarchical (Process 21 and 23)",
	".4.63":    "JPEG Full Progression, Hierarchical (Process 24 and 26)",
	".4.64":    "JPEG Full Progression, Hierarchical (Process 25 and 27)",
	".4.65":    "JPEG Lossless, Hierarchical (Process 28)",
	".4.66":    "JPEG Lossless, Hierarchical (Process 29)",
	".4.70":    "JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14)",
	".4.80":    "JPEG-LS Lossless",
	".4.81":    "JPEG-LS Near-Lossless",
	".4.90":    "JPEG 2000 (Lossless Only)",
	".4.91":    "JPEG 2000",
	".4.92":    "JPEG 2000 Part 2 Multi-component (Lossless Only)",
	".4.93":    "JPEG 2000 Part 2 Multi-component",
	".4.94":    "JPIP Referenced",
	".4.95":    "JPIP Referenced Deflate",
	".4.100":   "MPEG2 Main Profile / Main Level",
	".4.100.1": "Fragmentable MPEG2 Main Profile / Main Level",
	".4.101":   "MPEG2 Main Profile / High Level",
	".4.101.1": "Fragmentable MPEG2 Main Profile / High Level",
	".4.102":   "MPEG-4 AVC/H.264 High Profile / Level 4.1",
	".4.102.1": "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.1",
	".4.103":   "MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1",
	".4.103.1": "Fragmentable MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1",
	".4.104":   "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video",
	".4.104.1": "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video",
	".4.105":   "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video",
	".4.105.1": "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video",
	".4.106":   "MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2",
	".4.106.1": "Fragmentable MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2",
	".4.107":   "HEVC/H.265 Main Profile / Level 5.1",
	".4.108":   "HEVC/H.265 Main 10 Profile / Level 5.1",
	".4.110":   "JPEG XL Lossless",
	".4.111":   "JPEG XL JPEG Recompression",
	".4.112":   "JPEG XL",
	".4.201":   "High-Throughput JPEG 2000 (Lossless Only)",
	".4.202":   "High-Throughput JPEG 2000 with RPCL Options (Lossless Only)",
	".4.203":   "High-Throughput JPEG 2000",
	".4.204":   "JPIP HTJ2K Referenced",
	".4.205":   "JPIP HTJ2K Referenced Deflate",
	".5":       "RLE Lossless",
	".7.1":     "SMPTE ST 2110-20 Uncompressed Progressive Active Video",
	".7.2":     "SMPTE ST 2110-20 Uncompressed Interlaced Active Video",
	".7.3":     "SMPTE ST 2110-30 PCM Digital Audio",
	".8.1":     "Deflated Image Frame Compression",
}

// Find returns what is known of a transfer syntax. The UID is taken as the element holds it,
// without the padding at its end.
func Find(uid string) (s Syntax, known bool) {
	s, known = syntaxes[uid]
	return s, known
}

// Supported returns nil if Decode can decode frames of a transfer syntax, and otherwise an error
// for the user with its name, its UID and what to do.
func Supported(uid string) error {
	s, known := syntaxes[uid]
	switch {
	case !known:
		return fmt.Errorf("the transfer syntax %.64q is not known; %s", uid, convert)
	case !s.Encapsulated:
		return fmt.Errorf("the pixels of %s (%s) are not compressed", s.Name, uid)
	case s.available != nil:
		if err := s.available(); err != nil {
			return fmt.Errorf("%s (%s) needs OpenJPEG, which is not there: `make openjpeg` "+
				"fetches and builds it, libopenjp2 of the system (2.5 or newer) serves too; or "+
				"decompress the file first: `gdcmconv --raw IN OUT` (%w)", s.Name, uid, err)
		}
		return nil
	case s.decode != nil:
		return nil
	}
	return fmt.Errorf("the transfer syntax %s (%s) is not supported; %s", s.Name, uid,
		instead(uid[len(root):]))
}

// dcmdjpeg knows the JPEG of T.81 alone, gdcmconv JPEG-LS and JPEG 2000 as well.
const convert = "decompress the file first: `gdcmconv --raw IN OUT` or `dcmdjpeg IN OUT`"

// instead says what helps where a transfer syntax is not supported. These programs cannot decode
// video, nor what is newer than JPEG 2000.
func instead(uid string) string {
	switch name := names[uid]; {
	case strings.Contains(name, "MPEG"), strings.Contains(name, "HEVC"),
		strings.Contains(name, "SMPTE"):
		return "it is video or sound, not the slices of an image: choose another series"
	case strings.Contains(name, "JPIP"):
		return "the pixels lie on a server, not in the file: fetch the series from the archive with " +
			"its pixels, " + uncompressed
	case strings.Contains(name, "JPEG XL"), uid == ".1.98":
		return "fetch the series from the archive " + uncompressed
	}
	return convert
}

const uncompressed = "uncompressed, as Explicit VR Little Endian (" + root + ".1)"
