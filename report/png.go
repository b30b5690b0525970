package report

import (
	"fmt"
	"image"
	"image/png"

	"github.com/lntorch/lntorch/internal/atomicfile"
)

// writePNG replaces path atomically, so that a viewer never sees half an image while training
// rewrites it.
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
