"""Whole predictions by nnU-Net 2.5.1's nnUNetPredictor, from image files to label files.

Live: prediction.py --out FOLDER [--only NAME ...]
          makes models and images, and predicts them
      prediction.py --read FOLDER
          reads what lntorch wrote into FOLDER/NAME/fast and FOLDER/NAME/reference with nnU-Net's
          functions and compares it with FOLDER/NAME/stock

cases.json   per case: name, model (a model folder), images, previous (folder of the previous
             stage's segmentations, or null), folds, step_size, mirroring, probabilities, trained,
             regions, reader, ending
NAME/stock   what predict_from_files writes
NAME/truth   per image an .npz: labels and probabilities of nnU-Net's own code with its two float16
             accumulators made float32

predict_from_files itself runs, in one process: images are preprocessed by nnU-Net's
PreprocessAdapter, and exported by export_prediction_from_logits. The network runs once per tile; its
outputs go into both accumulators.
"""

import inspect
import json
import os
import textwrap
from pathlib import Path

import numpy as np
import torch

import stack
from export import make_plans
from networks import FLAT, FLAT_STRIDES, ISO, ISO_STRIDES, arch

PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESIDUAL = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"


def classes(n):
    return {"labels": {"background": 0} | {f"label {i}": i for i in range(1, n)}}


TWO, FIVE, SIXTY = classes(2), classes(5), classes(60)
IGNORE = {"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}}
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "last": 3},
    "regions_class_order": [1, 2, 3],
}


def image(shape, spacing, margin=((0, 0),) * 3):
    """Size and spacing (z, y, x) of an image, and how many voxels at its borders are 0."""
    return {"shape": shape, "spacing": spacing, "margin": margin}


def case(name, labels, spacing, patch, *images, **more):
    defaults = {
        "transpose": (0, 1, 2),
        "network": "plain",
        "channels": 1,
        "folds": 1,
        "step_size": 0.5,
        "mirror": (0, 1, 2),
        "mirroring": True,
        "probabilities": True,
        "reader": "SimpleITKIO",
        "ending": ".nii.gz",
        "previous": None,
    }
    own = {"name": name, "labels": labels, "spacing": spacing, "patch": patch, "images": images}
    return defaults | own | more


CUBE = (16, 16, 16)
CASES = [
    case(
        "two",
        TWO,
        (2.0, 1.2, 1.2),
        CUBE,
        image((26, 30, 31), (1.5, 1.0, 1.1), ((3, 2), (4, 5), (2, 6))),
        image((8, 22, 24), (2.0, 1.2, 1.2)),  # smaller than the patch on one axis; not resampled
        image((9, 10, 11), (2.0, 1.1, 1.2)),  # and on all
    ),
    case(
        "five",
        FIVE,
        (1.0, 1.0, 1.0),
        CUBE,
        image((14, 17, 26), (1.4, 1.3, 0.8)),
        network="residual",
        mirror=(0, 2),
        step_size=0.3,
    ),
    case(
        "sixty",
        SIXTY,
        (1.0, 1.0, 1.0),
        CUBE,
        image((28, 26, 30), (1.3, 0.9, 0.9), ((2, 1), (0, 3), (1, 0))),
        mirror=None,
        step_size=1.0,
    ),
    case(
        "regions",
        REGIONS,
        (1.2, 1.5, 1.0),
        CUBE,
        image((24, 30, 26), (1.1, 1.0, 1.4), ((2, 3), (0, 2), (3, 0))),
        image((20, 24, 26), (1.5, 1.2, 1.0)),  # not resampled
        network="residual",
        channels=2,
        transpose=(1, 0, 2),
        mirror="missing",
        reader="NibabelIO",
        ending=".nii",
    ),
    case(  # the plans' grid is anisotropic
        "anisotropic_plans",
        TWO,
        (4.5, 1.1, 1.2),
        (8, 24, 24),
        image((36, 30, 50), (1.0, 1.3, 1.2), ((2, 2), (3, 0), (4, 4))),
        transpose=(2, 0, 1),
        mirror=(1, 2),
    ),
    case(  # the image's is
        "anisotropic_image",
        FIVE,
        (1.6, 1.0, 1.0),
        CUBE,
        image((9, 28, 32), (5.0, 1.2, 0.9), ((1, 0), (2, 2), (0, 3))),
        image((9, 22, 20), (3.0, 1.0, 1.0)),  # exactly at the threshold, which is not above it
        image((9, 20, 22), (3.01, 1.0, 1.0)),
        mirror=(2,),
    ),
    case(
        "anisotropic_both",
        TWO,
        (5.0, 0.9, 0.9),
        (8, 24, 24),
        image((14, 34, 30), (3.5, 1.1, 1.1)),
        image((10, 30, 38), (5.0, 1.1, 0.9)),  # slices that stay
        mirror=(0,),
    ),
    case(
        "flat",
        FIVE,
        (1.2, 1.1),
        (24, 16),
        image((7, 34, 30), (4.0, 1.0, 1.0), ((1, 1), (2, 3), (4, 0))),
        image((3, 18, 14), (1.0, 1.2, 1.1)),  # smaller than the patch
        mirror=(0, 1),
    ),
    case(
        "low",
        FIVE,
        (3.0, 2.0, 2.0),
        CUBE,
        image((26, 30, 34), (1.5, 1.0, 1.1), ((3, 2), (4, 0), (0, 6))),
        image((24, 30, 30), (1.5, 1.2, 1.0)),
        mirror=(0,),
    ),
    case(
        "cascade",
        FIVE,
        (1.5, 1.2, 1.2),
        CUBE,
        image((26, 30, 34), (1.5, 1.0, 1.1), ((3, 2), (4, 0), (0, 6))),
        image((24, 30, 30), (1.5, 1.2, 1.0)),
        mirror=(2,),
        previous="low",
    ),
    case(
        "folds",
        FIVE,
        (1.5, 1.2, 1.2),
        CUBE,
        image((26, 28, 22), (1.5, 1.0, 1.1), ((3, 2), (0, 0), (0, 0))),
        folds=5,
        mirror=(1,),
    ),
    case(
        "ignore",
        IGNORE,
        (1.5, 1.2, 1.2),
        CUBE,
        image((24, 30, 26), (1.5, 1.0, 1.1), ((2, 3), (0, 2), (3, 0))),
        mirroring=False,
        reader="NibabelIOWithReorient",
        ending=".nii",
    ),
    case(
        "swin",
        TWO,
        (1.5, 1.2, 1.2),
        (64, 32, 32),
        image((38, 36, 34), (1.5, 1.0, 1.1)),
        network="SwinUNETR",
        mirror=(0,),
    ),
    case(
        "swinv2",
        FIVE,
        (1.5, 1.2, 1.2),
        (64, 32, 32),
        image((38, 30, 34), (1.5, 1.0, 1.1), ((0, 2), (0, 0), (0, 0))),
        network="SwinUNETRv2",
        mirror=None,
    ),
    case(  # slabs of 60 classes over 64×64 are handed on in pieces of 17 slices, as they take 16 MB
        "slabs",
        SIXTY,
        (1.0, 1.0, 1.0),
        (32, 32, 32),
        image((58, 64, 64), (1.1, 1.0, 1.0)),
        mirror=None,
        step_size=1.0,
        probabilities=False,
    ),
]

# Models of the phantoms: the folder of the model, an image, the step. Mirroring would take minutes.
DEMO = stack.ROOT / "testdata" / "phantom-demo"
TRAINED = [
    (
        "trained",
        stack.FOUNDATION,
        stack.PHANTOM / "raw/Dataset102_PhantomTarget/imagesTs/LN_004_0000.nii.gz",
        0.5,
    ),
    (
        "demo",
        DEMO / "foundation/nnUNetTrainer__nnUNetPlans__3d_phantom",
        DEMO / "raw/Dataset102_PhantomTarget/imagesTs/LN_008_0000.nii.gz",
        1.0,
    ),
]


# ---- models ----


def architecture(c):
    n = len(c["patch"])
    strides = FLAT_STRIDES if n == 2 else ISO_STRIDES
    kernels = FLAT if n == 2 else ISO
    if c["patch"][0] == 8:
        kernels, strides = [[1, 3, 3], [3, 3, 3], [3, 3, 3]], [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    if c["network"] == "residual":
        blocks = {"n_blocks_per_stage": [1, 2, 1], "n_conv_per_stage_decoder": [1, 1]}
        return arch(RESIDUAL, n, [4, 6, 8], kernels, strides, **blocks)
    convolutions = {"n_conv_per_stage": [1, 1, 1], "n_conv_per_stage_decoder": [1, 1]}
    return arch(PLAIN, n, [4, 6, 8], kernels, strides, **convolutions)


def configuration(c):
    plans = make_plans(c["spacing"], c["transpose"])
    own = plans["configurations"]["c"]
    own |= {"patch_size": list(c["patch"]), "architecture": architecture(c)}
    own["normalization_schemes"] = ["CTNormalization"] * c["channels"]
    own["use_mask_for_norm"] = [False] * c["channels"]
    return plans, own


def new_network(c, plans, dataset):
    """As nnU-Net builds it for prediction; SwinUNETR as the released trainers do."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    own = manager.get_configuration("c")
    channels = determine_num_input_channels(manager, own, dataset)
    heads = manager.get_label_manager(dataset).num_segmentation_heads
    if c["network"].startswith("Swin"):
        return swin(c["network"], channels, heads)
    a = own.configuration["architecture"]
    return get_network_from_plans(
        a["network_class_name"],
        a["arch_kwargs"],
        a["_kw_requires_import"],
        channels,
        heads,
        allow_init=True,
        deep_supervision=True,
    )


def swin(name, channels, heads):
    return stack.build_swin(
        {
            "swin": {"class": name, "feature_size": 12},
            "input_channels": channels,
            "num_classes": heads,
            "input_shape": [1, channels, 64, 64, 64],
        }
    )


def write_model(folder, c, cases):
    plans, own = configuration(c)
    plans["image_reader_writer"] = c["reader"]
    stats = {"mean": 30.0, "median": 40.0, "std": 210.0, "min": -1500.0, "max": 1500.0}
    stats |= {"percentile_00_5": -900.0, "percentile_99_5": 800.0}
    plans["foreground_intensity_properties_per_channel"] = {
        str(i): stats for i in range(c["channels"])
    }
    if c["previous"]:
        own["previous_stage"] = c["previous"]
        previous = next(p for p in cases if p["name"] == c["previous"])
        plans["configurations"][c["previous"]] = configuration(previous)[1]
    dataset = c["labels"] | {
        "channel_names": {str(i): "CT" for i in range(c["channels"])},
        "file_ending": c["ending"],
        "numTraining": 1,
    }
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans, indent=4))
    (folder / "dataset.json").write_text(json.dumps(dataset, indent=4))
    network = new_network(c, plans, dataset)
    trainer = "nnUNetTrainer"
    if c["network"].startswith("Swin"):
        trainer += "_" + c["network"]
    for fold in range(c["folds"]):
        with torch.no_grad():
            for p, (name, parameter) in enumerate(network.named_parameters()):
                values = stack.hash_parameter(p + 997 * fold, name, tuple(parameter.shape))
                parameter.copy_(values)
        checkpoint = {
            "network_weights": network.state_dict(),
            "trainer_name": trainer,
            "init_args": {"configuration": "c", "fold": fold},
        }
        if c["mirror"] != "missing":
            checkpoint["inference_allowed_mirroring_axes"] = c["mirror"]
        (folder / f"fold_{fold}").mkdir()
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")


# ---- images ----


def voxels(shape, margin, seed):
    """Blurred blocks and noise in HU, 0 in the margins."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.RandomState(seed)
    blocks = rng.randint(-1000, 1000, [n // 4 + 1 for n in shape]).astype(np.float32)
    out = np.kron(blocks, np.ones((4, 4, 4), np.float32))[tuple(slice(n) for n in shape)]
    out = gaussian_filter(out, 1.2) + rng.normal(0, 25, shape)
    inside = tuple(slice(a, n - b) for (a, b), n in zip(margin, shape))
    cut = np.zeros(shape, np.int16)
    cut[inside] = out[inside]
    return cut


def write_image(path, array, spacing, reader):
    """Axes that no reader may take for granted: oblique ones for SimpleITK, others reversed and
    exchanged for nibabel. (The written orientation is its own inverse: nnU-Net's
    NibabelIOWithReorient turns labels the wrong way for others, see docs/compat.md.)"""
    if reader == "SimpleITKIO":
        import SimpleITK as sitk

        im = sitk.GetImageFromArray(array)
        im.SetSpacing([float(s) for s in spacing[::-1]])
        im.SetOrigin((12.5, -33.0, 7.25))
        a, b = np.cos(0.2), np.sin(0.2)
        im.SetDirection((-a, b, 0.0, b, a, 0.0, 0.0, 0.0, 1.0))
        sitk.WriteImage(im, str(path))
        return
    import nibabel

    axes = np.diag([-spacing[2], spacing[1], spacing[0], 1.0])
    if reader == "NibabelIOWithReorient":  # in the file: z, y reversed, x
        array = array.transpose(2, 1, 0)[:, ::-1]
        axes = np.zeros((4, 4))
        axes[2, 0], axes[1, 1], axes[0, 2] = spacing[0], -spacing[1], spacing[2]
    axes[:, 3] = (12.5, -33.0, 7.25, 1.0)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), axes), str(path))


def write_images(folder, c):
    folder.mkdir(parents=True)
    for i, im in enumerate(c["images"]):
        for channel in range(c["channels"]):
            array = voxels(im["shape"], im["margin"], 10 * i + channel)
            path = folder / f"case_{i}_{channel:04d}{c['ending']}"
            write_image(path, array, im["spacing"], c["reader"])


# ---- predictions ----


def wide_accumulators():
    """nnUNetPredictor's loop over the tiles with float32 for its two float16 accumulators."""
    from nnunetv2.inference import predict_from_raw_data as module

    name = "_internal_predict_sliding_window_return_logits"
    source = inspect.getsource(getattr(module.nnUNetPredictor, name))
    assert source.count("dtype=torch.half") == 2, "this is not nnU-Net 2.5.1"
    space = dict(vars(module))
    exec(textwrap.dedent(source.replace("dtype=torch.half", "dtype=torch.float32")), space)
    return space[name]


def new_predictor(c, truth):
    from nnunetv2.inference.data_iterators import PreprocessAdapter
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape as convert,
        export_prediction_from_logits,
    )
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    accumulate = wide_accumulators()

    class Predictor(nnUNetPredictor):
        wide = False  # whether the tiles kept are added up once more

        def _internal_get_data_iterator_from_lists_of_filenames(self, files, previous, out, n):
            preprocessor = self.configuration_manager.preprocessor_class(verbose=False)
            return PreprocessAdapter(
                files,
                previous,
                preprocessor,
                out,
                self.plans_manager,
                self.dataset_json,
                self.configuration_manager,
            )

        def _internal_maybe_mirror_and_predict(self, x):
            if self.wide:
                return self.kept.pop(0)
            y = super()._internal_maybe_mirror_and_predict(x)
            self.kept.append(y.clone())
            return y

        def _internal_predict_sliding_window_return_logits(self, *args):
            if self.wide:
                return accumulate(self, *args)
            return super()._internal_predict_sliding_window_return_logits(*args)

        def predict_from_data_iterator(self, iterator, save_probabilities, n):
            for item in iterator:
                self.wide, self.kept = False, []
                managers = self.configuration_manager, self.plans_manager
                logits = self.predict_logits_from_preprocessed_data(item["data"])
                assert logits.dtype == torch.half
                export_prediction_from_logits(
                    logits,
                    item["data_properties"],
                    *managers,
                    self.dataset_json,
                    item["ofile"],
                    save_probabilities,
                )
                self.wide = True
                logits = self.predict_logits_from_preprocessed_data(item["data"])
                assert logits.dtype == torch.float32 and not self.kept
                seg, probabilities = convert(
                    logits,
                    *managers[::-1],
                    self.label_manager,
                    item["data_properties"],
                    True,
                )
                truth.mkdir(exist_ok=True)
                np.savez(
                    truth / (Path(item["ofile"]).name + ".npz"),
                    labels=np.ascontiguousarray(seg),
                    probabilities=np.ascontiguousarray(probabilities),
                )

    return Predictor(
        tile_step_size=c["step_size"],
        use_mirroring=c["mirroring"],
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )


def find_released_trainers():
    """nnU-Net finds trainers in its own folder; those of SwinUNETR are made here."""
    from nnunetv2.inference import predict_from_raw_data as module
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    trainers = {}
    for name in ("SwinUNETR", "SwinUNETRv2"):

        def build(a, b, c, channels, heads, enable_deep_supervision, name=name):
            return swin(name, channels, heads)

        own = {"build_network_architecture": staticmethod(build)}
        trainers["nnUNetTrainer_" + name] = type("nnUNetTrainer_" + name, (nnUNetTrainer,), own)
    find = module.recursive_find_python_class
    module.recursive_find_python_class = lambda folder, name, where: (
        trainers.get(name) or find(folder, name, where)
    )


def predict(c, folder):
    previous = folder.parent / c["previous"] / "stock" if c["previous"] else None
    described = {
        "name": c["name"],
        "model": str(c.get("model") or folder / "model"),
        "images": str(folder / "images"),
        "previous": previous and str(previous),
        "folds": [str(f) for f in range(c["folds"])],
        "step_size": c["step_size"],
        "mirroring": c["mirroring"],
        "probabilities": c["probabilities"],
        "trained": "model" in c,
        "regions": not c.get("model") and "regions_class_order" in c["labels"],
        "reader": c["reader"],
        "ending": c["ending"],
    }
    predictor = new_predictor(c, folder / "truth")
    predictor.initialize_from_trained_model_folder(described["model"], described["folds"])
    predictor.predict_from_files(
        described["images"],
        str(folder / "stock"),
        save_probabilities=c["probabilities"],
        folder_with_segs_from_prev_stage=described["previous"],
    )
    return described


def make(out, only):
    find_released_trainers()
    described = []
    for c in CASES:
        if only and c["name"] not in only:
            continue
        folder = out / c["name"]
        write_model(folder / "model", c, CASES)
        write_images(folder / "images", c)
        described.append(predict(c, folder))
    for name, model, path, step in TRAINED:
        if only and name not in only:
            continue
        (out / name / "images").mkdir(parents=True)
        (out / name / "images" / path.name).symlink_to(path)
        c = case(name, None, None, None, model=model, mirroring=False, step_size=step)
        described.append(predict(c, out / name))
    stack.write_json(out / "cases.json", described)


# ---- what lntorch wrote ----


def compare(ours, theirs, where):
    """Equal values of equal types, numpy's included."""
    assert type(ours) is type(theirs), f"{where}: {type(ours)}, expected {type(theirs)}"
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), f"{where}: {list(ours)}, expected {list(theirs)}"
        for key in theirs:
            compare(ours[key], theirs[key], f"{where}: {key}")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), f"{where}: {ours}, expected {theirs}"
        for i, value in enumerate(theirs):
            compare(ours[i], value, f"{where}: {i}")
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs), f"{where}: {ours}"
    else:
        assert ours == theirs, f"{where}: {ours}, expected {theirs}"


def read(out):
    """Labels, geometry, properties and probabilities as nnU-Net's own functions read them, and the
    labels written with the properties that lntorch wrote."""
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    for c in json.loads((out / "cases.json").read_text()):
        reader = recursive_find_reader_writer_by_name(c["reader"])()
        for numerics in ("fast", "reference"):
            for path in sorted((out / c["name"] / "stock").glob("*" + c["ending"])):
                read_case(c, reader, out / c["name"] / numerics / path.name, path)


def read_case(c, reader, mine, path):
    from batchgenerators.utilities.file_and_folder_operations import load_pickle

    theirs, properties = reader.read_seg(str(path))
    ours, own = reader.read_seg(str(mine))
    compare(own, properties, str(mine))
    assert ours.shape == theirs.shape, f"{mine}: {ours.shape}, expected {theirs.shape}"
    if not c["probabilities"]:
        return
    stem = str(mine)[: -len(c["ending"])]
    saved = load_pickle(stem + ".pkl")
    compare(saved, load_pickle(str(path)[: -len(c["ending"])] + ".pkl"), stem + ".pkl")
    shape = np.load(stem + ".npz")["probabilities"].shape
    assert shape[1:] == ours.shape[1:], f"{stem}.npz: {shape}, labels {ours.shape}"
    again = mine.parent / ("again_" + path.name)
    reader.write_seg(ours[0].astype(np.uint8), str(again), saved)
    written, own = reader.read_seg(str(again))
    compare(own, properties, str(again))
    assert np.array_equal(written, ours), f"{again}: other labels than {mine}"


def main():
    p = stack.parser(__doc__.splitlines()[0])
    p.add_argument("--out")
    p.add_argument("--only", nargs="+")
    p.add_argument("--read")
    args = p.parse_args()
    stack.start(args)
    os.environ["nnUNet_def_n_proc"] = str(args.threads)  # nnU-Net predicts with no more threads
    if args.read:
        read(Path(args.read))
    elif args.out:
        make(Path(args.out), args.only)
    else:
        p.error("give --out or --read")


if __name__ == "__main__":
    main()
