"""Has nnU-Net 2.5.1 determine and apply post-processing, ensemble, accumulate folds and find the best configuration.

Usage: python scripts/golden/postprocess.py FOLDER
       python scripts/golden/postprocess.py --same A.pkl B.pkl ...

FOLDER/pp/NAME/pred holds predictions as they were before, FOLDER/pp/NAME/nnunet what nnU-Net made of that folder under the same
name, and so for FOLDER/results and FOLDER/ensemble. FOLDER/best/NAME holds what find_best_configuration wrote to the results of
a dataset. FOLDER/pp/NAME/small.json holds, for each volume below which components are removed, the scores by nnU-Net's own
evaluation and by nodes.py. --same loads pairs of postprocessing.pkl as nnU-Net does and compares
functions, arguments and their types."""

import json
import multiprocessing
import os
import pickle
import shutil
import sys
import warnings
from multiprocessing.pool import ThreadPool

warnings.simplefilter("ignore")

HERE = os.path.dirname(os.path.abspath(__file__))
PLANS = "../../testdata/phantom-mini/predictions/source_notta/plans.json"


class Threads:
    """The processes of nnU-Net's pools as threads: each process would import torch anew."""

    Pool = ThreadPool


def types(v):
    if isinstance(v, (list, tuple)):
        return [type(v).__name__, [types(x) for x in v]]
    if isinstance(v, dict):
        return {k: types(x) for k, x in v.items()}
    return [f"{type(v).__module__}.{type(v).__qualname__}", repr(v)]


def same(pairs):
    for a, b in zip(pairs[::2], pairs[1::2]):
        with open(a, "rb") as f, open(b, "rb") as g:
            x, y = pickle.load(f), pickle.load(g)
        assert all(callable(fn) for fn in y[0]), b
        assert x[0] == y[0] and types(x) == types(y), (a, types(x), b, types(y))


def main(root):
    for name in ("raw", "preprocessed", "results"):
        os.environ["nnUNet_" + name] = os.path.join(root, name)
        os.makedirs(os.environ["nnUNet_" + name], exist_ok=True)
    multiprocessing.get_context = lambda *_: Threads
    import numpy as np
    import SimpleITK as sitk
    import nodes
    from nnunetv2.ensembling.ensemble import average_probabilities, ensemble_folders
    from nnunetv2.evaluation.accumulate_cv_results import accumulate_cv_results
    from nnunetv2.evaluation.evaluate_predictions import (
        compute_metrics_on_folder,
        load_summary_json,
    )
    from nnunetv2.evaluation.find_best_configuration import find_best_configuration
    from nnunetv2.postprocessing.remove_connected_components import (
        apply_postprocessing_to_folder,
        determine_postprocessing,
    )
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    rng = np.random.RandomState(7)
    with open(os.path.join(HERE, PLANS)) as f:
        plans = json.load(f)

    def save(path, value):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            json.dump(value, f, indent=4)

    def describe(folder, labels, order=None, reader="SimpleITKIO", dataset="Dataset777_Pp"):
        d = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 4}
        d["file_ending"] = ".nii.gz"
        if order:
            d["regions_class_order"] = order
        save(os.path.join(folder, "dataset.json"), d)
        p = dict(plans, image_reader_writer=reader, dataset_name=dataset)
        save(os.path.join(folder, "plans.json"), p)
        return d, p

    def image(path, array):
        im = sitk.GetImageFromArray(array.astype(np.uint8))
        im.SetSpacing((0.75, 0.8, 2.5))
        im.SetOrigin((-120.5, 3.25, 77))
        im.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        sitk.WriteImage(im, path, True)

    def box(a, at, size, v):
        a[tuple(slice(s, s + n) for s, n in zip(at, size))] = v

    def case(values, islands, flips=0, at=(3, 15, 27, 39)):
        """A reference with a box for each value, and a prediction that has further islands."""
        shape = (9, 14, 3 + 12 * len(values))
        ref = np.zeros(shape, int)
        for x, v in zip(at, values):
            box(ref, (2, 3, x), (4, 5, 6 + rng.randint(3)), v)
        pred = ref.copy()
        for i, v in islands:
            box(pred, (0, 11, 2 + 12 * i + rng.randint(4)), (2, 2, 2), v)
        for _ in range(flips):
            pred[tuple(rng.randint(n) for n in shape)] = rng.choice([0] + list(values))
        return ref, pred

    def with_speck(ref, pred, v):
        """A true island, which the rule for the foreground takes away."""
        for a in (ref, pred):
            a[8, 0, 0] = v
        return ref, pred

    def small(folder, names, p, d):
        """Scores after components of the foreground below a volume are removed, from the post-processed files."""
        manager, reader = (
            PlansManager(p).get_label_manager(d),
            PlansManager(p).image_reader_writer_class(),
        )
        targets = manager.foreground_regions if manager.has_regions else manager.foreground_labels
        scores = []
        for least in (0, 10, 20, 30, 50, 100, 200):
            out, found = os.path.join(folder, f"small_{least}"), {}
            os.makedirs(out)
            for name in names:
                im = sitk.ReadImage(os.path.join(folder, "nnunet", "postprocessed", name))
                ref = sitk.GetArrayFromImage(sitk.ReadImage(os.path.join(folder, "ref", name)))
                pred = sitk.GetArrayFromImage(im)
                comp, n = nodes.nodes(np.isin(pred, manager.foreground_labels))
                volume = np.bincount(comp.ravel(), minlength=n + 1) * np.prod(im.GetSpacing())
                pred[(volume[comp] < least) & (comp > 0)] = 0
                clean = sitk.GetImageFromArray(pred)
                clean.CopyInformation(im)
                sitk.WriteImage(clean, os.path.join(out, name))
                use = ref != (-1 if manager.ignore_label is None else manager.ignore_label)
                for t in targets:
                    masks = [np.isin(a, t) & use for a in (ref, pred)]
                    was = found.get(str(t), (0, 0, 0))
                    found[str(t)] = tuple(a + b for a, b in zip(was, nodes.counts(*masks, 0.3)))
            ref, file = os.path.join(folder, "ref"), os.path.join(out, "summary.json")
            compute_metrics_on_folder(
                ref, out, file, reader, ".nii.gz", targets, manager.ignore_label, 2
            )
            dice = load_summary_json(file)["foreground_mean"]["Dice"]
            scores.append({"below_mm3": least, "dice": dice, "tp_fn_fp": found})
        save(os.path.join(folder, "small.json"), scores)

    bg = {"background": 0}
    regions = dict(bg, whole=[1, 2, 3], core=[2, 3], tip=3)
    ignore = dict(bg, a=1, b=2, ignore=3)
    for name, labels, order, reader, cases in (
        ("one", dict(bg, node=1), None, "SimpleITKIO", [case([1], [(0, 1)]), case([1], [], 9)]),
        (
            "no_gain",
            dict(bg, node=1),
            None,
            "SimpleITKIO",
            [(r, r) for r in [case([1, 0, 1], [])[0] for _ in range(3)]],
        ),
        (
            "classes",
            dict(bg, a=1, b=2, c=3, d=12),
            None,
            "SimpleITKIO",
            [
                case([1, 2, 3, 12], [(0, 1), (1, 2)]),
                case([1, 2, 3, 12], [(0, 1), (3, 12)], 30),
                case([1, 2, 3], [(0, 1)]),
                (lambda r: (r, r))(case([3, 2, 3, 1], [])[0]),
            ],
        ),
        (
            "joined",
            dict(bg, a=1, b=2),
            None,
            "SimpleITKIO",
            [case([1], [(0, 1), (0, 2)], n) for n in (0, 8, 20)],
        ),
        (
            "regions",
            regions,
            [1, 2, 3],
            "NibabelIO",
            [case([1, 2, 3], [(0, 1), (1, 2), (2, 3)], n) for n in (0, 4, 25)],
        ),
        (
            "touching",
            dict(bg, a=1, b=2, c=3),
            None,
            "NibabelIO",
            [case([1, 2, 3], [(2, 1), (1, 2), (2, 3)], 0, (3, 9, 15)) for n in range(2)],
        ),
        (
            "falls",
            dict(bg, a=1, b=2),
            None,
            "SimpleITKIO",
            [with_speck(*case([1, 2], [(0, 1), (1, 1)], 0, (3, 9)), 2) for n in range(2)],
        ),
        (
            "region",
            regions,
            [1, 2, 3],
            "SimpleITKIO",
            [case([1, 2, 3], [(0, 3), (2, 2)], 0, (3, 18, 24)) for n in range(2)],
        ),
        (
            "specks",
            dict(bg, a=1),
            None,
            "NibabelIO",
            [case([1, 1], [(0, 1), (1, 1)], n) for n in (6, 12)],
        ),
        (
            "trade",  # without small components the Dice rises and F1 of label 2 falls
            dict(bg, a=1, b=2),
            None,
            "SimpleITKIO",
            [with_speck(*case([1, 1, 2], [(0, 1), (1, 1)]), 2) for n in range(2)],
        ),
        ("ignore", ignore, None, "SimpleITKIO", [case([1, 2], [(1, 2)], n) for n in (0, 40)]),
    ):
        folder = os.path.join(root, "pp", name)
        pred, ref = os.path.join(folder, "pred"), os.path.join(folder, "ref")
        d, p = describe(pred, labels, order, reader)
        for i, (r, q) in enumerate(cases):
            if name == "ignore":
                r[0, :4] = 3
            image(os.path.join(ref, f"LN_{i:03}.nii.gz"), r)
            image(os.path.join(pred, f"LN_{i:03}.nii.gz"), q)
        image(os.path.join(ref, "LN_900.nii.gz"), cases[0][0])  # not predicted
        before = os.path.join(folder, "before")
        shutil.copytree(pred, before)
        fns, kwargs = determine_postprocessing(pred, ref, None, None, 2, name != "ignore")
        apply_postprocessing_to_folder(
            before, os.path.join(folder, "applied"), fns, kwargs, p, d, 2
        )
        os.rename(pred, os.path.join(folder, "nnunet"))
        os.rename(before, pred)
        if name != "ignore":
            small(folder, [f"LN_{i:03}.nii.gz" for i in range(len(cases))], p, d)

    for name, labels, order, heads in (
        ("labels", dict(bg, a=1, b=2, c=3, d=4), None, 5),
        ("regions", regions, [1, 2, 3], 3),
    ):
        folder = os.path.join(root, "ensemble", name)
        inputs = [os.path.join(folder, m) for m in ("first", "second", "third")]
        for m in inputs:
            d, p = describe(m, labels, order)
        reader = PlansManager(p).image_reader_writer_class()
        manager = PlansManager(p).get_label_manager(d)
        for i, shape in enumerate([(5, 7, 11), (8, 30, 41), (1, 9, 9)]):
            image(os.path.join(folder, "ct", f"LN_{i}.nii.gz"), np.zeros(shape))
            _, properties = reader.read_seg(os.path.join(folder, "ct", f"LN_{i}.nii.gz"))
            for m in inputs:
                x = rng.randn(heads, *shape) * 2
                x = np.exp(x) / np.exp(x).sum(0) if order is None else 1 / (1 + np.exp(-x))
                x = x.astype(np.float32)
                x[:, :, :2] = 0  # outside of the crop
                x[0, :, :2] = order is None
                np.savez_compressed(os.path.join(m, f"LN_{i}.npz"), probabilities=x)
                with open(os.path.join(m, f"LN_{i}.pkl"), "wb") as f:
                    pickle.dump(properties, f)
        out = os.path.join(folder, "nnunet")
        ensemble_folders(inputs, out, True, 2)
        for i in range(3 if order else 0):  # 2.5.1 puts the mean through the sigmoid again
            mean = average_probabilities([os.path.join(m, f"LN_{i}.npz") for m in inputs])
            _, properties = reader.read_seg(os.path.join(folder, "ct", f"LN_{i}.nii.gz"))
            labels = manager.convert_probabilities_to_segmentation(mean)
            reader.write_seg(labels, os.path.join(out, f"LN_{i}.nii.gz"), properties)

    model = os.path.join(root, "results", "Dataset777_Pp", "nnUNetTrainer__nnUNetPlans__3d_fullres")
    describe(model, dict(bg, a=1, b=2))
    for i in range(7):
        r, q = case([1, 2], [(1, 2)], 10 * i)
        image(os.path.join(root, "raw", "Dataset777_Pp", "labelsTr", f"LN_{i:03}.nii.gz"), r)
        image(os.path.join(model, f"fold_{i % 3}", "validation", f"LN_{i:03}.nii.gz"), q)
    merged = os.path.join(model, "crossval_results_folds_0_1_2")
    accumulate_cv_results(model, merged, (0, 1, 2), 2)
    os.rename(merged, os.path.join(root, "nnunet_accumulated"))

    for dataset, labels, order, heads, spread in (
        ("Dataset778_Ensemble", dict(bg, a=1, b=2), None, 3, (1.2, 1.2)),
        ("Dataset779_Single", dict(bg, a=1, b=2), None, 3, (4.0, 0.3)),
        ("Dataset780_Tie", regions, [1, 2, 3], 3, None),
    ):
        results = os.path.join(root, "results", dataset)
        preprocessed = os.path.join(root, "preprocessed", dataset)
        models = [f"nnUNetTrainer__nnUNetPlans__{c}" for c in ("2d", "3d_fullres")]
        _, p = describe(preprocessed, labels, order, dataset=dataset)
        save(os.path.join(preprocessed, "nnUNetPlans.json"), p)
        for m in models:
            d, p = describe(os.path.join(results, m), labels, order, dataset=dataset)
        reader = PlansManager(p).image_reader_writer_class()
        manager = PlansManager(p).get_label_manager(d)
        if order:  # 2.5.1 puts the mean of an ensemble through the sigmoid again
            fixed = LabelManager.convert_probabilities_to_segmentation
            LabelManager.convert_logits_to_segmentation = fixed
        for i in range(6):
            ref, _ = case([1, 2, 3] if order else [1, 2], [])
            gt = os.path.join(preprocessed, "gt_segmentations", f"LN_{i:03}.nii.gz")
            image(gt, ref)
            if dataset == "Dataset778_Ensemble":
                image(os.path.join(root, "raw", dataset, "labelsTr", f"LN_{i:03}.nii.gz"), ref)
            _, properties = reader.read_seg(gt)
            classes = [[1, 2, 3], [2, 3], [3]] if order else [[0], [1], [2]]
            truth = np.stack([np.isin(ref, c) for c in classes]).astype(np.float32)
            noise = rng.randn(heads, *ref.shape)
            for k, m in enumerate(models):
                if spread:
                    x = np.exp(3 * truth + spread[k] * rng.randn(heads, *ref.shape))
                    x /= x.sum(0)
                else:
                    x = 1 / (1 + np.exp(2 - 4 * truth + noise))
                x = x.astype(np.float32)
                out = os.path.join(results, m, f"fold_{i % 3}", "validation", f"LN_{i:03}")
                os.makedirs(os.path.dirname(out), exist_ok=True)
                np.savez_compressed(out + ".npz", probabilities=x)
                with open(out + ".pkl", "wb") as f:
                    pickle.dump(properties, f)
                seg = manager.convert_probabilities_to_segmentation(x)
                reader.write_seg(seg, out + ".nii.gz", properties)
        configurations = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
        find_best_configuration(
            dataset,
            [
                {"plans": "nnUNetPlans", "configuration": c, "trainer": "nnUNetTrainer"}
                for c in configurations
            ],
            num_processes=2,
            folds=[0, 1, 2],
        )
        moved = os.path.join(root, "best", dataset)
        for m in models:
            merged = "crossval_results_folds_0_1_2"
            os.makedirs(os.path.join(moved, m))
            os.rename(os.path.join(results, m, merged), os.path.join(moved, m, merged))
        for file in ("ensembles", "inference_information.json", "inference_instructions.txt"):
            os.rename(os.path.join(results, file), os.path.join(moved, file))


if __name__ == "__main__":
    if sys.argv[1] == "--same":
        same(sys.argv[2:])
    else:
        main(sys.argv[1])
