"""The networks of networks/: every head's output, every gradient, every state-dict key.

Golden files:   network.py --out testdata/golden/network
Live:           network.py --spec SPEC.json --out OUT.npz [--weights-fill hash | --weights FILE.pth]
                           [--input X.npy] [--input-shape N C ...] [--threads N]

Input: the hash fill with p = -1. Loss: sum over heads, in order, of mean(head_i * w_i), w_i the
hash fill with p = -2-i.
OUT.npz: head_0 (full resolution) ..., loss (0-d), grad/NAME for each named parameter with a
gradient. Next to it OUT.json: meta, spec, loss, heads (shapes), state_dict rows, named_parameters
rows.
"""

import numpy as np
import torch

import networks
import stack


def run(spec, args, weights="hash", data=None):
    """(arrays, description) of one case."""
    network = stack.build(spec)
    stack.load_weights(network, weights)
    network.train(spec.get("mode", "train") == "train")
    if data is None:
        data = stack.hash_tensor(-1, tuple(spec["input_shape"]))
    heads = network(data)
    if torch.is_tensor(heads):
        heads = [heads]
    loss = None
    for i, head in enumerate(heads):
        term = (head * stack.hash_tensor(-2 - i, tuple(head.shape))).mean()
        loss = term if loss is None else loss + term
    loss.backward()
    arrays = {f"head_{i}": h.detach().numpy() for i, h in enumerate(heads)}
    arrays["loss"] = loss.detach().numpy()
    for name, p in network.named_parameters():
        if p.grad is not None:
            arrays["grad/" + name] = p.grad.numpy()
    description = {
        "meta": stack.meta(args, weights=str(weights) if weights == "hash" else "file"),
        "spec": spec,
        "loss": float(loss),
        "heads": [list(h.shape) for h in heads],
        "state_dict": stack.state_dict_rows(network),
        "named_parameters": stack.named_parameter_rows(network),
    }
    return arrays, description


def main():
    p = stack.parser(__doc__.splitlines()[0])
    p.add_argument(
        "--out", required=True, help="folder of golden files, or with --spec the .npz to write"
    )
    p.add_argument("--spec", help="live: one spec")
    p.add_argument("--weights-fill", choices=["hash"], default="hash")
    p.add_argument("--weights", help="live: checkpoint or state dict instead of the fill")
    p.add_argument("--input", help="live: .npy input instead of the hash fill")
    p.add_argument(
        "--input-shape", type=int, nargs="+", help="live: input shape instead of the spec's"
    )
    args = p.parse_args()
    stack.start(args)
    if args.spec:
        spec = stack.read_spec(args.spec)
        if args.input_shape:
            spec["input_shape"] = args.input_shape
        data = torch.from_numpy(np.load(args.input)) if args.input else None
        arrays, description = run(spec, args, args.weights or args.weights_fill, data)
        stack.write_npz(args.out, arrays)
        stack.write_json(args.out.removesuffix(".npz") + ".json", description)
        return
    for spec in networks.cases():
        arrays, description = run(spec, args)
        stack.write_npz(f"{args.out}/{spec['name']}.npz", arrays)
        stack.write_json(f"{args.out}/{spec['name']}.json", description)
        print(spec["name"], description["heads"], len(description["state_dict"]), "keys")


if __name__ == "__main__":
    main()
