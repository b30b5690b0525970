package report

import (
	"fmt"
	"image"
	"image/png"

	"github.com/lntorch/lntorch/internal/atomicfile"
)

// writePNG writes the image through a temporary file beside path, so that
// whoever looks at path while a training rewrites it sees a whole picture.
func writePNG(path string, img image.Image) error {
	f, err := atomicfile.Create(path)
	if err != nil {
		return fmt.Errorf("report: write %s: %w", path, err)
	}
	encoder := png.Encoder{CompressionLevel: png.BestSpeed}
	if err = encoder.Encode(f, img); err != nil {
		f.Abort()
	} else {
		err = f.Commit()
	}
	if err != nil {
		return fmt.Errorf("report: write %s: %w", path, err)
	}
	return nil
}
