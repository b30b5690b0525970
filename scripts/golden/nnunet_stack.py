"""Stock nnU-Net on files written by lntorch, and vice versa. CPU only.

    predict      --model-folder F --input-dir I --output-dir O [--folds 0 ...]
                 [--checkpoint-name checkpoint_final.pth] [--disable-tta] [--save-probabilities]
                 [--step-size 0.5] [--entry]
                 nnUNetPredictor.initialize_from_trained_model_folder, then per case nnU-Net's
                 preprocessing, prediction and export in this process; --entry runs the command
                 nnUNetv2_predict_from_modelfolder with its own worker processes.
    train        --preprocessed P --results R --dataset D --configuration C --fold F --epochs N
                 --iterations n [--val-iterations m] [--trainer nnUNetTrainer]
                 [--plans nnUNetPlans] [--resume] [--stop-after E]
                 [--pretrained FILE] [--validate] [--unpack] [--report FILE.json]
                 get_trainer_from_args, maybe_load_checkpoint and run_training of nnU-Net. --resume
                 is its --c and fails when there is no checkpoint. --stop-after E leaves after epoch
                 E (counted from 0) with checkpoint_latest.pth on disk.
    validate     --preprocessed P --results R --dataset D --configuration C --fold F
                 [--trainer nnUNetTrainer] [--plans nnUNetPlans] [--disable-tta] [--npz]
                 nnU-Net's --val: the final validation of the fold's checkpoint_final.pth
    resume       train --resume
    compare-pth  A B [--only KEY]   key by key: order, Python type, tensor dtype, shape, stride,
                                    bytes, storage sharing
    weights-only FILE               torch.load(weights_only=True)
    pretrained   --plans P --dataset-json D --configuration C --checkpoint FILE
                 nnU-Net's load_pretrained_weights into a fresh network: which keys were loaded,
                 which kept

Results go to stdout as one JSON line, after nnU-Net's own output. Exit code 0: success; 1:
difference or error.
"""

import json
import os
import random
import shutil
import sys
from pathlib import Path

import stack  # sets nnU-Net's variables before nnU-Net is imported

import numpy as np
import torch


def say(value):
    print(json.dumps(value))


def predict(args):
    if args.entry:
        from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder

        sys.argv = [
            "nnUNetv2_predict_from_modelfolder",
            "-i",
            args.input_dir,
            "-o",
            args.output_dir,
            "-m",
            args.model_folder,
            "-f",
            *args.folds,
            "-chk",
            args.checkpoint_name,
            "-step_size",
            str(args.step_size),
            "-device",
            "cpu",
            "-npp",
            "1",
            "-nps",
            "1",
            "--disable_progress_bar",
        ]
        sys.argv += ["--disable_tta"] * args.disable_tta + [
            "--save_probabilities"
        ] * args.save_probabilities
        predict_entry_point_modelfolder()
        say({"predicted": sorted(p.name for p in Path(args.output_dir).glob("*.nii.gz"))})
        return
    from nnunetv2.inference.export_prediction import export_prediction_from_logits
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.utils import create_lists_from_splitted_dataset_folder

    predictor = nnUNetPredictor(
        tile_step_size=args.step_size,
        use_mirroring=not args.disable_tta,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    folds = [f if f == "all" else int(f) for f in args.folds]
    predictor.initialize_from_trained_model_folder(args.model_folder, folds, args.checkpoint_name)
    ending = predictor.dataset_json["file_ending"]
    out = Path(args.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
    done = []
    for files in create_lists_from_splitted_dataset_folder(args.input_dir, ending):
        case = Path(files[0]).name[: -len(ending) - 5]
        data, _, properties = preprocessor.run_case(
            files,
            None,
            predictor.plans_manager,
            predictor.configuration_manager,
            predictor.dataset_json,
        )
        data = torch.from_numpy(data).to(dtype=torch.float32, memory_format=torch.contiguous_format)
        logits = predictor.predict_logits_from_preprocessed_data(data).cpu()
        export_prediction_from_logits(
            logits,
            properties,
            predictor.configuration_manager,
            predictor.plans_manager,
            predictor.dataset_json,
            str(out / case),
            args.save_probabilities,
        )
        done.append(case + ending)
    for name in ("dataset.json", "plans.json"):
        shutil.copy(Path(args.model_folder) / name, out / name)
    say({"predicted": done})


class Stop(Exception):
    pass


def trainer_of(args, use_compressed):
    os.environ.update(
        nnUNet_preprocessed=args.preprocessed,
        nnUNet_results=args.results,
        nnUNet_n_proc_DA="0",
        nnUNet_def_n_proc="1",
        nnUNet_raw=args.preprocessed,
    )
    from nnunetv2.run.run_training import get_trainer_from_args

    random.seed(args.seed)
    np.random.seed(args.seed)
    return get_trainer_from_args(
        args.dataset,
        args.configuration,
        args.fold if args.fold == "all" else int(args.fold),
        args.trainer,
        args.plans,
        use_compressed=use_compressed,
        device=torch.device("cpu"),
    )


def validate(args):
    trainer = trainer_of(args, True)
    from nnunetv2.run.run_training import maybe_load_checkpoint

    maybe_load_checkpoint(trainer, False, True)
    if args.disable_tta:
        trainer.inference_allowed_mirroring_axes = None
    trainer.perform_actual_validation(args.npz)
    say({"validation": str(Path(trainer.output_folder) / "validation")})


def train(args):
    trainer = trainer_of(args, not args.unpack)
    from nnunetv2.run.run_training import maybe_load_checkpoint

    trainer.num_epochs = args.epochs
    trainer.num_iterations_per_epoch = args.iterations
    trainer.num_val_iterations_per_epoch = args.val_iterations
    trainer.save_every = 1
    folder = Path(trainer.output_folder)
    if args.resume and not list(folder.glob("checkpoint_*.pth")):
        raise SystemExit(f"{folder}: no checkpoint to resume from")
    maybe_load_checkpoint(trainer, args.resume, False, args.pretrained)
    start = trainer.current_epoch
    if args.stop_after is not None:
        end_of_epoch = trainer.on_epoch_end

        def stop_after():
            epoch = trainer.current_epoch
            end_of_epoch()
            if epoch == args.stop_after:
                raise Stop

        trainer.on_epoch_end = stop_after
    try:
        trainer.run_training()
    except Stop:
        pass
    if args.validate:
        trainer.perform_actual_validation(False)
    log = trainer.logger.my_fantastic_logging
    report = {
        "output_folder": str(folder),
        "start_epoch": start,
        "end_epoch": trainer.current_epoch,
        "files": sorted(p.name for p in folder.iterdir()),
        "logging": {k: json.loads(json.dumps(v, default=float)) for k, v in log.items()},
    }
    if args.report:
        stack.write_json(args.report, {**report, "meta": stack.meta(args)})
    say(report)


class Comparison:
    """Walks two loaded checkpoints side by side and lists what differs."""

    def __init__(self):
        self.differences, self.tensors = [], 0
        self.storages = ({}, {})

    def note(self, path, text):
        self.differences.append(f"{path or 'root'}: {text}")

    def walk(self, path, a, b):
        if type(a) is not type(b):
            self.note(
                path,
                f"type {type(a).__module__}.{type(a).__name__} and {type(b).__module__}.{type(b).__name__}",
            )
        elif torch.is_tensor(a):
            self.tensor(path, a, b)
        elif isinstance(a, dict):
            if list(a) != list(b):
                self.note(path, self.keys(list(a), list(b)))
            elif [type(k) for k in a] != [type(k) for k in b]:
                self.note(path, "key types differ")
            for k in a:
                if k in b:
                    self.walk(f"{path}/{k}", a[k], b[k])
            if hasattr(a, "_metadata") or hasattr(b, "_metadata"):
                self.walk(
                    f"{path}._metadata",
                    getattr(a, "_metadata", None),
                    getattr(b, "_metadata", None),
                )
        elif isinstance(a, (list, tuple)):
            if len(a) != len(b):
                self.note(path, f"{len(a)} and {len(b)} items")
            for i, (x, y) in enumerate(zip(a, b)):
                self.walk(f"{path}[{i}]", x, y)
        elif isinstance(a, (np.generic, np.ndarray)):
            if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():
                self.note(path, f"{a!r} ({a.dtype}) and {b!r} ({b.dtype})")
        elif a != b and not (isinstance(a, float) and np.isnan(a) and np.isnan(b)):
            self.note(path, f"{a!r} and {b!r}")

    @staticmethod
    def keys(a, b):
        missing, extra = [k for k in a if k not in b], [k for k in b if k not in a]
        if missing or extra:
            return f"only in the first {missing[:5]}, only in the second {extra[:5]}"
        first = next(i for i, (x, y) in enumerate(zip(a, b)) if x != y)
        return f"order differs from key {first}: {a[first]!r} and {b[first]!r}"

    def tensor(self, path, a, b):
        self.tensors += 1
        for what in ("dtype", "shape", "device", "requires_grad"):
            if getattr(a, what) != getattr(b, what):
                self.note(path, f"{what} {getattr(a, what)} and {getattr(b, what)}")
                return
        if a.stride() != b.stride() or a.storage_offset() != b.storage_offset():
            self.note(
                path,
                f"stride {a.stride()} offset {a.storage_offset()} and {b.stride()} {b.storage_offset()}",
            )
        ids = [
            seen.setdefault(t.untyped_storage()._cdata, len(seen))
            for seen, t in zip(self.storages, (a, b))
        ]
        if ids[0] != ids[1]:
            self.note(path, f"storage {ids[0]} and {ids[1]} (numbered by first appearance)")
        if a.untyped_storage().nbytes() != b.untyped_storage().nbytes():
            self.note(
                path,
                f"storage of {a.untyped_storage().nbytes()} and {b.untyped_storage().nbytes()} bytes",
            )
        raw = [
            t.detach().contiguous().view(-1).view(torch.uint8).numpy()
            for t in (a.reshape(-1), b.reshape(-1))
        ]
        if not np.array_equal(*raw):
            worst = (a.double() - b.double()).abs().max().item() if a.numel() else 0
            self.note(path, f"bytes differ, largest difference {worst}")


def compare_pth(args):
    # The two objects stay alive during the walk, so that storage addresses are not reused.
    a, b = (
        torch.load(f, map_location="cpu", weights_only=False) for f in (args.first, args.second)
    )
    if args.only:
        a, b = a[args.only], b[args.only]
    c = Comparison()
    c.walk("", a, b)
    for line in c.differences[:50]:
        print(line)
    say(
        {
            "equal": not c.differences,
            "differences": len(c.differences),
            "tensors": c.tensors,
            "storages": len(c.storages[0]),
        }
    )
    sys.exit(1 if c.differences else 0)


def weights_only(args):
    value = torch.load(args.file, map_location="cpu", weights_only=True)
    say(
        {
            "type": type(value).__name__,
            "keys": [str(k) for k in value][:20] if isinstance(value, dict) else None,
            "torch": torch.__version__,
        }
    )


def pretrained(args):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    spec = stack.plans_spec(args.plans, args.dataset_json, args.configuration)
    network = stack.build(spec)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    load_pretrained_weights(network, args.checkpoint)
    given = torch.load(args.checkpoint, map_location="cpu", weights_only=False)["network_weights"]
    taken, kept, wrong = [], [], []
    for k, v in network.state_dict().items():
        if ".seg_layers." in k:
            (kept if torch.equal(v, before[k]) else wrong).append(k)
        else:
            (taken if torch.equal(v, given[k]) else wrong).append(k)
    say({"taken": len(taken), "kept": kept, "wrong": wrong})
    sys.exit(1 if wrong else 0)


def main():
    p = stack.parser(__doc__.splitlines()[0])
    sub = p.add_subparsers(required=True)

    def command(name, run, **defaults):
        s = sub.add_parser(name)
        s.set_defaults(run=run, **defaults)
        return s

    s = command("predict", predict)
    s.add_argument("--model-folder", required=True)
    s.add_argument("--input-dir", required=True)
    s.add_argument("--output-dir", required=True)
    s.add_argument("--folds", nargs="+", default=["0"])
    s.add_argument("--checkpoint-name", default="checkpoint_final.pth")
    s.add_argument("--step-size", type=float, default=0.5)
    s.add_argument("--disable-tta", action="store_true")
    s.add_argument("--save-probabilities", action="store_true")
    s.add_argument("--entry", action="store_true")
    for name in ("train", "resume"):
        s = command(name, train)
        s.add_argument("--preprocessed", required=True)
        s.add_argument("--results", required=True)
        s.add_argument("--dataset", required=True)
        s.add_argument("--configuration", required=True)
        s.add_argument("--fold", default="0")
        s.add_argument("--epochs", type=int, required=True)
        s.add_argument("--iterations", type=int, required=True)
        s.add_argument("--val-iterations", type=int, default=2)
        s.add_argument("--trainer", default="nnUNetTrainer")
        s.add_argument("--plans", default="nnUNetPlans")
        s.add_argument("--pretrained")
        s.add_argument("--stop-after", type=int)
        s.add_argument("--validate", action="store_true")
        s.add_argument("--unpack", action="store_true")
        s.add_argument("--report")
        s.add_argument("--resume", action="store_true", default=name == "resume")
    s = command("validate", validate)
    s.add_argument("--preprocessed", required=True)
    s.add_argument("--results", required=True)
    s.add_argument("--dataset", required=True)
    s.add_argument("--configuration", required=True)
    s.add_argument("--fold", default="0")
    s.add_argument("--trainer", default="nnUNetTrainer")
    s.add_argument("--plans", default="nnUNetPlans")
    s.add_argument("--disable-tta", action="store_true")
    s.add_argument("--npz", action="store_true")
    s = command("compare-pth", compare_pth)
    s.add_argument("first")
    s.add_argument("second")
    s.add_argument("--only")
    s = command("weights-only", weights_only)
    s.add_argument("file")
    s = command("pretrained", pretrained)
    s.add_argument("--plans", required=True)
    s.add_argument("--dataset-json", required=True)
    s.add_argument("--configuration", required=True)
    s.add_argument("--checkpoint", required=True)
    args = p.parse_args()
    stack.start(args)
    args.run(args)


if __name__ == "__main__":
    main()
