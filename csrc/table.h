/* The table of kernels: KERNEL(name, layout, shapes, arguments), a row for each kernel of kernels.h that works on columns.

   shapes     outputs = inputs, in the order of the C function, by the names that messages use; sizes that share a name
              are equal, 7*m+block_size is a size too, and n is the number of columns.  What attention keeps for itself
              (probs, work, keys, values) has an order of its own, and room for attention_rows(n) columns.  `tokens[n]<v` are int32 indices from 0 to v - 1; `dw?` may be
              NULL, and is then left out; an output called work is scratch.
   layout     STRIDED: matrices may be blocks of larger ones, each with a leading dimension; PACKED: they are whole.
   arguments  how the C function is called with arrays a[...], leading dimensions ld[...], both in the order of `shapes`,
              and the sizes.

   The checks of arguments in C (call.c) and in Python (arguments.py), and recorded programs (program.c, program.py),
   follow from these rows. */

KERNEL(matmul_forward, STRIDED, "y[m,n] = w[m,k] x[k,n]", (a[0], a[1], a[2], m, k, n, ld[0], ld[1], ld[2]))
KERNEL(matmul_backward, STRIDED, "dw?[m,k] dx?[k,n] = dy[m,n] w[m,k] x[k,n]",
       (a[0], a[1], a[2], a[3], a[4], m, k, n, ld[0], ld[1], ld[2], ld[3], ld[4], accumulate))

KERNEL(softmax_forward, STRIDED, "p[m,n] = x[m,n]", (a[0], a[1], m, n, ld[0], ld[1]))
KERNEL(softmax_backward, STRIDED, "dx[m,n] = dp[m,n] p[m,n]",
       (a[0], a[1], a[2], m, n, ld[0], ld[1], ld[2], accumulate))

KERNEL(rmsnorm_forward, STRIDED, "y[m,n] rstd[n] = x[m,n]", (a[0], a[1], a[2], call->eps, m, n, ld[0], ld[2]))
KERNEL(rmsnorm_backward, STRIDED, "dx[m,n] = dy[m,n] y[m,n] rstd[n]",
       (a[0], a[1], a[2], a[3], m, n, ld[0], ld[1], ld[2], accumulate))

KERNEL(relu_forward, PACKED, "y[m,n] = x[m,n]", (a[0], a[1], (size_t)m * n))
KERNEL(relu_backward, PACKED, "dx[m,n] = dy[m,n] y[m,n]", (a[0], a[1], a[2], (size_t)m * n, accumulate))

KERNEL(add_forward, PACKED, "y[m,n] = a[m,n] b[m,n]", (a[0], a[1], a[2], (size_t)m * n))
KERNEL(add_backward, PACKED, "da?[m,n] db?[m,n] = dy[m,n]", (a[0], a[1], a[2], (size_t)m * n, accumulate))

KERNEL(embedding_forward, PACKED, "x[m,n] = wte[m,vocab_size] wpe[m,block_size] tokens[n]<vocab_size positions[n]<block_size",
       (a[0], a[1], a[2], a[3], a[4], m, n))
KERNEL(embedding_backward, PACKED, "dwte[m,vocab_size] dwpe[m,block_size] = dx[m,n] tokens[n]<vocab_size positions[n]<block_size",
       (a[0], a[1], a[2], a[3], a[4], m, call->vocab_size, call->block_size, n, accumulate))

KERNEL(attention_forward, PACKED, "out[m,n] probs[n_head*block_size,n] work[4*m,n] = q[m,n] k[m,n] v[m,n] positions[n]<block_size",
       (a[0], a[1], a[2], a[3], a[4], a[5], a[6], m, call->n_head, call->block_size, n))
KERNEL(attention_backward, PACKED, "dq[m,n] dk[m,n] dv[m,n] work[7*m+block_size,n] = dout[m,n] probs[n_head*block_size,n] q[m,n] k[m,n] v[m,n] positions[n]<block_size",
       (a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], m, call->n_head, call->block_size, n, accumulate))
KERNEL(attention_cached, PACKED, "out[m,n] probs[n_head*block_size,n] keys[m*block_size,n] values[m*block_size,n] work[2*m,n] = q[m,n] k[m,n] v[m,n] positions[n]<block_size",
       (a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], m, call->n_head, call->block_size, n))

KERNEL(cross_entropy_forward, PACKED, "losses[n] probs[m,n] loss[1] = logits[m,n] targets[n]<m weights[n]",
       (a[0], a[1], a[2], a[3], a[4], a[5], m, n))
KERNEL(cross_entropy_backward, PACKED, "dlogits[m,n] = probs[m,n] targets[n]<m weights[n]",
       (a[0], a[1], a[2], a[3], m, n, accumulate))
