/* The kernel table.  A file that includes this defines SIZE(name), KERNEL(name, traits, shapes, call), or both.

   SIZE      a size that shapes may use beside n, the number of tokens.

   KERNEL    one row for each kernel of kernels.h that can be part of a recorded program:

   traits    STRIDED: each matrix has a leading dimension, so it may be a block of a larger one; PACKED: ld = rows.
             SPLIT: the kernel can compute any range of columns of a sum over tokens, so threads divide these.
             Without it, one thread computes the whole sum.
   shapes    outputs = inputs, in the order of the C function, by the names that messages use.  Sizes with the same name
             are equal; a size can also be an expression such as 7*m+block_size.
               [m,n]      a column for each token
               [m,n+]     laid out by the kernel itself, with room for attention_rows(n) columns
               dw[m,k]    an output without n or n+ is a sum over tokens
               <v         int32 indices from 0 to v - 1
               dw?        may be NULL, and is then not computed.  If only some outputs are sums, all must be optional,
                          because threads compute them in separate calls.
               work!      scratch
   call      how to call the C function with arrays a[...] and leading dimensions ld[...], both in the order of
             `shapes`, the sizes, eps and accumulate.  For a part of a sum, the size that counts the sum's columns is
             the number of columns in the part, and `first` is the first of them.

   The argument checks (call.c, checks.py) and the recorded programs (program.c, program.py) follow from these rows. */

#ifdef SIZE
SIZE(m)
SIZE(k)
SIZE(vocab_size)
SIZE(block_size)
SIZE(n_head)
#endif

#ifdef KERNEL
KERNEL(matmul_forward, STRIDED, "y[m,n] = w[m,k] x[k,n]",
       API(matmul_forward)(a[0], a[1], a[2], m, k, n, ld[0], ld[1], ld[2]))
KERNEL(matmul_backward, STRIDED | SPLIT, "dw?[m,k] dx?[k,n] = dy[m,n] w[m,k] x[k,n]",
       API(matmul_backward)(a[0], a[1], a[2], a[3], a[4], m, k, n, ld[0], ld[1], ld[2], ld[3], ld[4], accumulate))

KERNEL(softmax_forward, STRIDED, "p[m,n] = x[m,n]", API(softmax_forward)(a[0], a[1], m, n, ld[0], ld[1]))
KERNEL(softmax_backward, STRIDED, "dx[m,n] = dp[m,n] p[m,n]",
       API(softmax_backward)(a[0], a[1], a[2], m, n, ld[0], ld[1], ld[2], accumulate))

KERNEL(rmsnorm_forward, STRIDED, "y[m,n] rstd[n] = x[m,n]",
       API(rmsnorm_forward)(a[0], a[1], a[2], eps, m, n, ld[0], ld[2]))
KERNEL(rmsnorm_backward, STRIDED, "dx[m,n] = dy[m,n] y[m,n] rstd[n]",
       API(rmsnorm_backward)(a[0], a[1], a[2], a[3], m, n, ld[0], ld[1], ld[2], accumulate))

KERNEL(relu_forward, PACKED, "y[m,n] = x[m,n]", API(relu_forward)(a[0], a[1], (size_t)m * n))
KERNEL(relu_backward, PACKED, "dx[m,n] = dy[m,n] y[m,n]",
       API(relu_backward)(a[0], a[1], a[2], (size_t)m * n, accumulate))

KERNEL(add_forward, PACKED, "y[m,n] = a[m,n] b[m,n]", API(add_forward)(a[0], a[1], a[2], (size_t)m * n))
KERNEL(add_backward, PACKED, "da?[m,n] db?[m,n] = dy[m,n]",
       API(add_backward)(a[0], a[1], a[2], (size_t)m * n, accumulate))

KERNEL(embedding_forward, PACKED,
       "x[m,n] = wte[m,vocab_size] wpe[m,block_size] tokens[n]<vocab_size positions[n]<block_size",
       API(embedding_forward)(a[0], a[1], a[2], a[3], a[4], m, n))
KERNEL(embedding_backward, PACKED | SPLIT,
       "dwte?[m,vocab_size] dwpe?[m,block_size] = dx[m,n] tokens[n]<vocab_size positions[n]<block_size",
       embedding_backward(a[0], a[1], a[2], a[3], a[4], m, first, vocab_size, block_size, n, accumulate))

KERNEL(attention_forward, PACKED,
       "out[m,n] probs[n_head*block_size,n+] work![4*m,n+] = q[m,n] k[m,n] v[m,n] positions[n]<block_size",
       API(attention_forward)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], m, n_head, block_size, n))
KERNEL(attention_backward, PACKED,
       "dq[m,n] dk[m,n] dv[m,n] work![7*m+block_size,n+] = "
       "dout[m,n] probs[n_head*block_size,n+] q[m,n] k[m,n] v[m,n] positions[n]<block_size",
       API(attention_backward)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], m, n_head, block_size, n,
                               accumulate))
KERNEL(attention_cached, PACKED,
       "out[m,n] probs[n_head*block_size,n+] keys[m*block_size,n+] values[m*block_size,n+] work![2*m,n+] = "
       "q[m,n] k[m,n] v[m,n] positions[n]<block_size",
       API(attention_cached)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], m, n_head, block_size, n))

KERNEL(cross_entropy_forward, PACKED, "losses[n] probs[m,n] = logits[m,n] targets[n]<m",
       API(cross_entropy_forward)(a[0], a[1], NULL, a[2], a[3], NULL, m, n))
KERNEL(cross_entropy_sum, PACKED, "loss[1] = losses[n] weights[n]", API(cross_entropy_sum)(a[0], a[1], a[2], n))
KERNEL(cross_entropy_backward, PACKED, "dlogits[m,n] = probs[m,n] targets[n]<m weights[n]",
       API(cross_entropy_backward)(a[0], a[1], a[2], a[3], m, n, accumulate))
#endif
