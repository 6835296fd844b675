"""Export the model as an ONNX graph.  Needs the onnx package, in the optional extra [export].

The graph maps `tokens` (int64 [batch, time]) to `logits` ([batch, time, vocab]); `time` may be up to block_size.
RMSNorm is built from elementary operators, because ONNX's own has a float32 epsilon, which loses digits in float64.
"""

import json
from typing import Any

import numpy as np

from ..base.errors import ConfigError, optional
from ..core.params import Parameters, by_rows
from ..kernels import RMSNORM_EPS

OPSET, IR_VERSION = 18, 8  # both of the same ONNX release, in 2022
MAX_BYTES = 2**31 - 2**20  # the limit of a protobuf message, less some room for the graph


class Graph:
    """The nodes of a graph, in order.  A value is represented by its name."""

    def __init__(self, helper: Any) -> None:
        self.nodes: list[Any] = []
        self.make_node = helper.make_node

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Append an operator, and return the name of its result."""
        output = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def linear(self, x: str, weight: str) -> str:
        return self.add("MatMul", x, self.add("Transpose", weight, perm=[1, 0]))

    def rmsnorm(self, x: str) -> str:
        mean = self.add("ReduceMean", self.add("Mul", x, x), "last_axis", keepdims=1)
        return self.add("Div", x, self.add("Sqrt", self.add("Add", mean, "eps")))

    def heads(self, x: str, perm: list[int]) -> str:
        """Split batch x time x n_embd into heads: batch x head x time x head_dim, or the order that `perm` gives."""
        return self.add("Transpose", self.add("Reshape", x, "to_heads"), perm=perm)


def forward(g: Graph, n_layer: int) -> None:
    """Append the forward pass of model.py, which ends in `logits`."""
    time = g.add("Shape", "tokens", start=1, end=2)
    # 0, 1, 2, ...; with Range, onnxruntime would slice wpe, and not report a token beyond block_size as an error
    positions = g.add("CumSum", g.add("Expand", "one", time), "zero", exclusive=1)
    x = g.rmsnorm(g.add("Add", g.add("Gather", "wte", "tokens"), g.add("Gather", "wpe", positions)))
    square = g.add("Expand", "minus_infinity", g.add("Concat", time, time, axis=0))
    future = g.add("Trilu", square, "one", upper=1)  # minus infinity above the diagonal, and 0 elsewhere
    for layer in range(n_layer):
        l = f"layer{layer}."
        # x = x + wo attention(rmsnorm(x))
        h = g.rmsnorm(x)
        q, k, v = (g.linear(h, f"{l}attn_{w}") for w in ("wq", "wk", "wv"))
        q, k, v = g.heads(q, [0, 2, 1, 3]), g.heads(k, [0, 2, 3, 1]), g.heads(v, [0, 2, 1, 3])
        scores = g.add("Div", g.add("MatMul", q, k), "root_of_head_dim")
        probs = g.add("Softmax", g.add("Add", scores, future), axis=-1)
        h = g.add("Transpose", g.add("MatMul", probs, v), perm=[0, 2, 1, 3])
        x = g.add("Add", x, g.linear(g.add("Reshape", h, "from_heads"), l + "attn_wo"))
        # x = x + fc2 relu(fc1 rmsnorm(x))
        h = g.add("Relu", g.linear(g.rmsnorm(x), l + "mlp_fc1"))
        x = g.add("Add", x, g.linear(h, l + "mlp_fc2"))
    g.add("MatMul", x, g.add("Transpose", "lm_head", perm=[1, 0]), name="logits")


def to_bytes(params: Parameters) -> bytes:
    """The bytes of the .onnx file.  Raises ExtraError, and ConfigError if the weights are too large for one file."""
    onnx = optional("onnx", "export", "an .onnx file")
    helper, types = onnx.helper, onnx.TensorProto
    config, dtype = params.config, np.dtype(params.config.dtype)
    if params.flat.nbytes > MAX_BYTES:
        raise ConfigError(f"expected weights of at most {MAX_BYTES} bytes for ONNX, found {params.flat.nbytes}")
    head_dim = config.n_embd // config.n_head
    constants = {
        **by_rows(params),
        "eps": np.array(RMSNORM_EPS, dtype),
        "minus_infinity": np.array(-np.inf, dtype),
        "root_of_head_dim": np.array(head_dim**0.5, dtype),
        "zero": np.array(0),
        "one": np.array(1),
        "last_axis": np.array([-1]),
        "to_heads": np.array([0, 0, config.n_head, head_dim]),  # 0 keeps the dimension
        "from_heads": np.array([0, 0, config.n_embd]),
    }
    g = Graph(helper)
    forward(g, config.n_layer)
    real = types.DOUBLE if dtype == np.float64 else types.FLOAT
    graph = helper.make_graph(
        g.nodes,
        "microgpt",
        [helper.make_tensor_value_info("tokens", types.INT64, ["batch", "time"])],
        [helper.make_tensor_value_info("logits", real, ["batch", "time", params.tokens.size])],
        [onnx.numpy_helper.from_array(np.asarray(array, order="C"), name) for name, array in constants.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="microgpt")
    helper.set_model_props(model, {"config": json.dumps(config.as_dict()), "vocab": "".join(params.vocab)})
    return model.SerializeToString(deterministic=True)  # type: ignore[no-any-return]
