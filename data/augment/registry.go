package augment

// kind is a class of transforms.
type kind struct {
	name string
	// gated: batchgeneratorsv2 has it in a RandomTransform
	gated bool
	// parameters returns a pointer to parameters with nnU-Net's values where they may be left out.
	parameters func() Parameters
	// transform returns a pointer to a Transform without ranges.
	transform func() any
}

// kinds are all transforms: a new one is a file of its own and a line here.
var kinds = []kind{
	{"Convert3DTo2DTransform", false, func() Parameters { return &Convert3DTo2DTransform{} },
		func() any { return &Convert3DTo2DTransform{} }},
	{"SpatialTransform", false, func() Parameters { return &SpatialParameters{ModeSeg: "bilinear"} },
		func() any { return &SpatialTransform{} }},
	{"Convert2DTo3DTransform", false, func() Parameters { return &Convert2DTo3DTransform{} },
		func() any { return &Convert2DTo3DTransform{} }},
	{"GaussianNoiseTransform", true, func() Parameters { return &GaussianNoiseParameters{} },
		func() any { return &GaussianNoiseTransform{} }},
	{"GaussianBlurTransform", true, func() Parameters { return &GaussianBlurParameters{} },
		func() any { return &GaussianBlurTransform{} }},
	{"MultiplicativeBrightnessTransform", true,
		func() Parameters { return &MultiplicativeBrightnessParameters{} },
		func() any { return &MultiplicativeBrightnessTransform{} }},
	{"ContrastTransform", true, func() Parameters { return &ContrastParameters{PreserveRange: true} },
		func() any { return &ContrastTransform{} }},
	{"SimulateLowResolutionTransform", true,
		func() Parameters { return &SimulateLowResolutionParameters{} },
		func() any { return &SimulateLowResolutionTransform{} }},
	{"GammaTransform", true, func() Parameters { return &GammaParameters{} },
		func() any { return &GammaTransform{} }},
	{"MirrorTransform", false, func() Parameters { return &MirrorParameters{} },
		func() any { return &MirrorTransform{} }},
	{"MaskImageTransform", false, func() Parameters { return &MaskImageTransform{ApplyToChannels: []int{}} },
		func() any { return &MaskImageTransform{} }},
	{"RemoveLabelTansform", false, func() Parameters { return &RemoveLabelTansform{} },
		func() any { return &RemoveLabelTansform{} }},
	{"MoveSegAsOneHotToDataTransform", false,
		func() Parameters { return &MoveSegAsOneHotToDataTransform{} },
		func() any { return &MoveSegAsOneHotToDataTransform{} }},
	{"ApplyRandomBinaryOperatorTransform", true,
		func() Parameters { return &ApplyRandomBinaryOperatorParameters{} },
		func() any { return &ApplyRandomBinaryOperatorTransform{} }},
	{"RemoveRandomConnectedComponentFromOneHotEncodingTransform", true,
		func() Parameters {
			return &RemoveRandomConnectedComponentFromOneHotEncodingParameters{DontDoIfCoversMore: 0.15}
		},
		func() any { return &RemoveRandomConnectedComponentFromOneHotEncodingTransform{} }},
	{"ConvertSegmentationToRegionsTransform", false,
		func() Parameters { return &ConvertSegmentationToRegionsTransform{} },
		func() any { return &ConvertSegmentationToRegionsTransform{} }},
	{"DownsampleSegForDSTransform", false, func() Parameters { return &DownsampleSegForDSTransform{} },
		func() any { return &DownsampleSegForDSTransform{} }},
}
