package models

import "strings"

// IsHead tells by its name whether a parameter belongs to a segmentation head: the layers whose outputs are the logits of
// one resolution. They are decoder.seg_layers of nnU-Net's networks and out of MONAI's SwinUNETR.
// Source: dynamic_network_architectures 0.3.1, unet_decoder.py; MONAI 1.3.0, swin_unetr.py.
func IsHead(name string) bool {
	return strings.Contains(name, ".seg_layers.") || strings.HasPrefix(name, "out.conv.conv.")
}
