package infer

// Need is what sliding over one image takes.
type Need struct {
	Tiles  int   // places of the window
	Passes int   // patches that go through the network: tiles times mirror images
	Bytes  int64 // the padded image, sums of logits and weights, the weight map, one batch's input and logits
}

// Forecast tells what Logits will need for an image of shape (c,z,y,x). Bytes leaves out the caller's own copy of the
// image, the network's weights and the activations inside one forward pass.
func Forecast(patch []int, classes int, shape [4]int, cfg Config) (Need, error) {
	if err := cfg.check(patch, classes); err != nil {
		return Need{}, err
	}
	if err := checkShape(shape); err != nil {
		return Need{}, err
	}
	g := newGrid(patch, shape, cfg.TileStep)
	size := 1
	for _, n := range patch {
		size *= n
	}
	mirrors := 1 << len(cfg.Mirror)
	n := Need{Tiles: len(g.tiles), Passes: len(g.tiles) * mirrors}
	values := int(cfg.accumulator().Size())
	batch := min(cfg.batch(), n.Passes)
	n.Bytes = int64(g.voxels()*(4*shape[0]+values*(classes+1)) + size*values + batch*size*4*(shape[0]+classes))
	return n, nil
}
