package infer

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/torch"
)

// BenchmarkSlidingWindow runs one image of 60×192×192 voxels with 100 patches of 24×64×64, no
// mirroring, float32.
func BenchmarkSlidingWindow(b *testing.B) {
	if err := torch.Load(); err != nil {
		golden.Missing(b, "torch", err.Error())
	}
	shape := [4]int{1, 60, 192, 192}
	image := hashImage(shape)
	for _, c := range []struct {
		name  string
		n     Numerics
		batch int
	}{{"reference", Reference, 1}, {"fast-1", Fast, 1}, {"fast-2", Fast, 2}, {"fast-4", Fast, 4}} {
		b.Run(c.name, func(b *testing.B) {
			require.NoError(b, torch.With(func(s *torch.Scope) error {
				net, _, _ := foundationNetwork(b, s)
				cfg := config(c.n, nil)
				cfg.BatchTiles = c.batch
				p, err := New(net, []int{24, 64, 64}, 2, cfg)
				require.NoError(b, err)
				for b.Loop() {
					err := torch.With(func(s *torch.Scope) error {
						_, err := p.Logits(context.Background(), s, image, shape, nil)
						return err
					})
					require.NoError(b, err)
				}
				return nil
			}))
		})
	}
}
