// Package preprocess makes training data of images as nnU-Net's DefaultPreprocessor does: it transposes, crops to the
// non-zero region, normalises, resamples, and writes the .npz and .pkl files that nnU-Net and data/dataset read. It
// plans nothing (data/planner) and reads no image format (data/images). Inverse is the way back: from logits on the
// grid of a preprocessed case to labels and probabilities on the grid of its image.
//
// Volumes have axes (c, z, y, x), after the plans' transposition where there is one; spacing is in mm and in the order
// of the axes. Work that may use several threads takes their number.
package preprocess
