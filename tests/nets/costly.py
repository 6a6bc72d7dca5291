"""Networks of a few nodes that take more than they look: of memory, or of time without an end."""

from __future__ import annotations

# The size is hidden from shape inference: it is computed from the input.
WIDENS = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,2] x) => (float[N] y)
<int64 zero = {0}, int64[2] size = {1, 100000000}, int64[1] one = {1}>
{
  f = ReduceMax <keepdims = 0> (x)
  i = Cast <to = 7> (f)
  o = Mul(i, zero)
  s = Add(o, size)
  r = ReduceMax <keepdims = 1, axes = [1]> (x)
  e = Expand(r, s)
  y = ReduceSum <keepdims = 0> (e, one)
}"""
ENDLESS = """<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x) => (float[2] y)
{
  go = Constant<value = bool {1}>()
  y = Loop ("", go, x) <body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t)
    { d = Identity(c) t = Cos(s) }>
}"""
