// Package openjpeg decodes the JPEG 2000 and HTJ2K of DICOM with the C library OpenJPEG, 2.5 or
// newer, and registers that with package codec. It does not link the library: `make` builds
// liblntorch_openjpeg.so from OpenJPEG's sources, and libopenjp2 of the system serves too.
//
// OpenJPEG reads what anybody may have written, so it runs in processes of its own: the program
// starts itself again, as a decoder that holds one codestream at a time, cannot open files, has
// its memory and CPU time limited, and is killed when it takes too long. Whatever becomes of it is
// an error for that frame. A decoder decodes many frames, and as many run as there are cores.
//
//	func main() {
//		if openjpeg.Start() {
//			return // this process was a decoder
//		}
//		...
//	}
package openjpeg

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/lntorch/lntorch/formats/dicom/codec"
)

// decoderName is what a decoder's process is called: its only argument besides the library.
const decoderName = "lntorch-jpeg2000"

// started says that a process of this program ends in serve if it is a decoder's.
var started bool

// shared is what Start registers.
var shared = newPool(runtime.GOMAXPROCS(0), limits, command)

// Start must be the first call of a program's main, and it ends if Start returns true: the process
// was a decoder, whose work is done. Otherwise Start registers the decoder of package codec.
// Nothing is looked for or started before the first frame.
func Start() (wasDecoder bool) {
	if len(os.Args) == 2 && os.Args[0] == decoderName {
		serve(os.Stdin, os.Stdout, os.Args[1])
		return true
	}
	started = true
	codec.RegisterJPEG2000(
		func() error {
			_, err := Find()
			return err
		},
		func(dst []byte, c codec.JPEG2000, f codec.Frame) error {
			library, err := Find()
			if err != nil {
				return err
			}
			return shared.decode(library, dst, c, f)
		})
	return false
}

// A Library is an OpenJPEG that serves.
type Library struct {
	Path    string // as it is opened; of the system's, its name alone
	Version string
}

var found struct {
	once sync.Once
	Library
	err error
}

// Find looks for OpenJPEG, once per process; later calls return the same result. Search order: the
// file named by LNTORCH_OPENJPEG, and no other; liblntorch_openjpeg.so where `make` and `make
// install` leave it; the system's libopenjp2. The error lists what was tried. Only a program that
// begins with Start has one.
func Find() (Library, error) {
	if !started {
		return Library{}, errors.New("this program cannot be started as a decoder")
	}
	found.once.Do(func() {
		found.Library, found.err = shared.find(candidates())
	})
	return found.Library, found.err
}

// find returns the first of the libraries that a decoder opens.
func (p *pool) find(paths []string) (Library, error) {
	var tried []string
	for _, path := range paths {
		d, err := p.open(path)
		if err == nil {
			p.give(d)
			return d.library, nil
		}
		tried = append(tried, fmt.Sprintf("%s: %v", path, err))
	}
	return Library{}, errors.New("tried " + strings.Join(tried, "; "))
}
