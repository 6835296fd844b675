"""The model: a GPT as a list of kernel calls, forward and then backward.

Every activation is features x tokens, one column per token, whichever documents the columns belong to.  `ops` records
the calls (see program.py), `p` holds the parameters, `g` their gradients.
"""


def forward(ops, p, config, attention):
    """logits: vocab_size x tokens.  `attention` is ops.attention_forward, or ops.attention_cached to sample."""
    n_head, block_size = config.n_head, config.block_size
    x = ops.embedding_forward("embedding", p["wte"], p["wpe"])  # n_embd x tokens, like all but mlp_hidden and logits
    x = ops.rmsnorm_forward("x", x)
    for layer in range(config.n_layer):
        l = f"layer{layer}."
        # x = x + wo attention(rmsnorm(x))
        h = ops.rmsnorm_forward(l + "attn_norm", x)
        q = ops.matmul_forward(l + "q", p[l + "attn_wq"], h)
        k = ops.matmul_forward(l + "k", p[l + "attn_wk"], h)
        v = ops.matmul_forward(l + "v", p[l + "attn_wv"], h)
        h = attention(l + "attn", q, k, v, n_head, block_size)
        h = ops.matmul_forward(l + "attn_out", p[l + "attn_wo"], h)
        x = ops.add_forward(l + "x_attn", x, h)
        # x = x + fc2 relu(fc1 rmsnorm(x))
        h = ops.rmsnorm_forward(l + "mlp_norm", x)
        h = ops.matmul_forward(l + "mlp_hidden", p[l + "mlp_fc1"], h)  # 4 n_embd x tokens
        h = ops.relu_forward(l + "mlp_relu", h)
        h = ops.matmul_forward(l + "mlp_out", p[l + "mlp_fc2"], h)
        x = ops.add_forward(l + "x_mlp", x, h)
    return ops.matmul_forward("logits", p["lm_head"], x)  # vocab_size x tokens


def loss(ops, logits):
    """The weighted sum over columns of -log softmax(logits)[target]."""
    return ops.cross_entropy_forward("probs", logits)


def backward(ops, p, g, config):
    """The gradient of the loss in g, line by line the forward pass from its end.

    dx is the gradient of the residual stream: x = x + branch hands it on to both as it is, so it is a branch's dy and
    then has the branch's own dx added.
    """
    a = ops.values
    n = config.n_embd
    for gradient in g.views.values():
        ops.zero(gradient)
    last = f"layer{config.n_layer - 1}.x_mlp"
    dlogits = ops.zeros("dlogits", len(a["logits"]))
    ops.cross_entropy_backward(dlogits, a["probs"])
    dx = ops.zeros("dx", n)
    ops.matmul_backward(g["lm_head"], dx, dlogits, p["lm_head"], a[last])
    for layer in reversed(range(config.n_layer)):
        l = f"layer{layer}."
        # x = x + fc2 relu(fc1 rmsnorm(x))
        drelu = ops.zeros("drelu", 4 * n)
        ops.matmul_backward(g[l + "mlp_fc2"], drelu, dx, p[l + "mlp_fc2"], a[l + "mlp_relu"])
        dhidden = ops.zeros("dhidden", 4 * n)
        ops.relu_backward(dhidden, drelu, a[l + "mlp_relu"])
        dnorm = ops.zeros("dnorm", n)
        ops.matmul_backward(g[l + "mlp_fc1"], dnorm, dhidden, p[l + "mlp_fc1"], a[l + "mlp_norm"])
        ops.rmsnorm_backward(dx, dnorm, l + "mlp_norm")
        # x = x + wo attention(rmsnorm(x))
        dattn = ops.zeros("dattn", n)
        ops.matmul_backward(g[l + "attn_wo"], dattn, dx, p[l + "attn_wo"], a[l + "attn"])
        dq, dk, dv = ops.zeros("dq", n), ops.zeros("dk", n), ops.zeros("dv", n)
        q, k, v = a[l + "q"], a[l + "k"], a[l + "v"]
        ops.attention_backward(dq, dk, dv, dattn, l + "attn", q, k, v, config.n_head, config.block_size)
        dnorm = ops.zeros("dnorm", n)
        ops.matmul_backward(g[l + "attn_wv"], dnorm, dv, p[l + "attn_wv"], a[l + "attn_norm"])
        ops.matmul_backward(g[l + "attn_wk"], dnorm, dk, p[l + "attn_wk"], a[l + "attn_norm"])
        ops.matmul_backward(g[l + "attn_wq"], dnorm, dq, p[l + "attn_wq"], a[l + "attn_norm"])
        ops.rmsnorm_backward(dx, dnorm, l + "attn_norm")
    dembedding = ops.zeros("dembedding", n)
    ops.rmsnorm_backward(dembedding, dx, "x")
    ops.embedding_backward(g["wte"], g["wpe"], dembedding)
