"""Clipped sums of per-record gradients from one backward pass: book-keeping (Bu et al., ICML 2023, section 4).

A prepared layer computes what the stock layer computes, but its backward pass gives its weights no gradient; it writes
down, per record, what the gradient is made of. From that come the norm of every record over all parameters, its clip
factor, and one clipped sum per parameter. `prepare` says which layers can do it; everything else is refused.
"""
