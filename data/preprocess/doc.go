// Package preprocess converts images to training data as nnU-Net's DefaultPreprocessor does: it
// transposes, crops to the non-zero region, normalises, resamples, and writes the .npz and .pkl
// files that nnU-Net and data/dataset read. Planning is data/planner's, reading image formats is
// data/images'. Inverse converts back: from logits on the grid of a preprocessed case to labels
// and probabilities on the grid of its image.
//
// Volumes have axes (c, z, y, x), after transpose_forward where the plans have one; spacing is in
// mm, in axis order. Functions that can run in parallel take the number of threads.
package preprocess
