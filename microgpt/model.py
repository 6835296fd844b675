"""The model: a GPT as a list of kernel calls, forward and then backward.

Every activation is features x tokens, one column per token, whichever documents the columns belong to.  `k` records
the calls (see program.py), `p` holds the parameters, `g` their gradients.
"""


def forward(k, p, config, attention):
    """logits: vocab_size x tokens.  `attention` is k.attention_forward, or k.attention_cached to sample."""
    n_head, block_size = config.n_head, config.block_size
    x = k.embedding_forward("embedding", p["wte"], p["wpe"])
    x = k.rmsnorm_forward("x", x)
    for layer in range(config.n_layer):
        l = f"layer{layer}."
        # x = x + wo attention(rmsnorm(x))
        h = k.rmsnorm_forward(l + "attn_norm", x)
        q = k.matmul_forward(l + "q", p[l + "attn_wq"], h)
        key = k.matmul_forward(l + "k", p[l + "attn_wk"], h)
        v = k.matmul_forward(l + "v", p[l + "attn_wv"], h)
        h = attention(l + "attn", q, key, v, n_head, block_size)
        h = k.matmul_forward(l + "attn_out", p[l + "attn_wo"], h)
        x = k.add_forward(l + "x_attn", x, h)
        # x = x + fc2 relu(fc1 rmsnorm(x))
        h = k.rmsnorm_forward(l + "mlp_norm", x)
        h = k.matmul_forward(l + "mlp_hidden", p[l + "mlp_fc1"], h)
        h = k.relu_forward(l + "mlp_relu", h)
        h = k.matmul_forward(l + "mlp_out", p[l + "mlp_fc2"], h)
        x = k.add_forward(l + "x_mlp", x, h)
    return k.matmul_forward("logits", p["lm_head"], x)


def loss(k, logits):
    """The weighted sum over columns of -log softmax(logits)[target]."""
    return k.cross_entropy_forward("probs", logits)


def backward(k, p, g, config):
    """The gradient of the loss in g, line by line the forward pass from its end.

    dx is the gradient of the residual stream: x = x + branch hands it on to both as it is, so it is a branch's dy and
    then has the branch's own dx added.
    """
    a = k.values
    n = config.n_embd
    for gradient in g.views.values():
        k.zero(gradient)
    last = f"layer{config.n_layer - 1}.x_mlp"
    dlogits = k.zeros("dlogits", len(a["logits"]))
    k.cross_entropy_backward(dlogits, a["probs"])
    dx = k.zeros("dx", n)
    k.matmul_backward(g["lm_head"], dx, dlogits, p["lm_head"], a[last])
    for layer in reversed(range(config.n_layer)):
        l = f"layer{layer}."
        # x = x + fc2 relu(fc1 rmsnorm(x))
        drelu = k.zeros("drelu", 4 * n)
        k.matmul_backward(g[l + "mlp_fc2"], drelu, dx, p[l + "mlp_fc2"], a[l + "mlp_relu"])
        dhidden = k.zeros("dhidden", 4 * n)
        k.relu_backward(dhidden, drelu, a[l + "mlp_relu"])
        dnorm = k.zeros("dnorm", n)
        k.matmul_backward(g[l + "mlp_fc1"], dnorm, dhidden, p[l + "mlp_fc1"], a[l + "mlp_norm"])
        k.rmsnorm_backward(dx, dnorm, l + "mlp_norm")
        # x = x + wo attention(rmsnorm(x))
        dattn = k.zeros("dattn", n)
        k.matmul_backward(g[l + "attn_wo"], dattn, dx, p[l + "attn_wo"], a[l + "attn"])
        dq, dkey, dv = k.zeros("dq", n), k.zeros("dk", n), k.zeros("dv", n)
        k.attention_backward(dq, dkey, dv, dattn, l + "attn", config.n_head, config.block_size)
        dnorm = k.zeros("dnorm", n)
        k.matmul_backward(g[l + "attn_wv"], dnorm, dv, p[l + "attn_wv"], a[l + "attn_norm"])
        k.matmul_backward(g[l + "attn_wk"], dnorm, dkey, p[l + "attn_wk"], a[l + "attn_norm"])
        k.matmul_backward(g[l + "attn_wq"], dnorm, dq, p[l + "attn_wq"], a[l + "attn_norm"])
        k.rmsnorm_backward(dx, dnorm, l + "attn_norm")
    dembedding = k.zeros("dembedding", n)
    k.rmsnorm_backward(dembedding, dx, "x")
    k.embedding_backward(g["wte"], g["wpe"], dembedding)
