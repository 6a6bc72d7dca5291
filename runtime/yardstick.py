"""The network that latencies of other sessions are held beside: always the same, run in turns.

Seconds of another run, or another machine, compare with nothing here; by how much a bundle takes
longer than this network does.
"""

from __future__ import annotations

import base64

YARDSTICK_SHAPE = (1, 16, 24, 24)
VERSION = 1  # of the network: shares of another one compare with nothing

# Two convolutions with a sum, a pool and a product, 2.7 M multiply-accumulates; the weights are
# made by ConstantOfShape, which ONNX Runtime folds. Its text is in the test.
_CONTENT = (
    "2nafw0}40_24-n&bY*f90e2z~LvL<#bYX6EPi9kSVQ^(C7zzb;VQh6}Dhvn#5CI|t004kILI9uv1Udi;I0^=BVRUk7"
    "coG3^A`e4vZgX^DZgfv(Q)ppuWhxj71$JR<b!93H2mufQA_M>cfIUJ0paBFr016}u0eA`lcM<_%A_PNkZgwgW3IuRr"
    "WOG0PKmkAjKmniu2RZ->4hjKb5&>c&1X5*ebvghFBnkmy3ITT#0b?QrLvL<&DiI0<aA9O~KmkAjKmkAjpaBOu016Na"
    "0b>dQcoG3*A_GBWWI6x}4hjKe5&>l*1X5*ebvghF8wvqs5&>o+5l3uqVqt7Sc4cy5XJt@tZ)`dM3K0qcW)cBsA_qon"
    "VRUq5ZaM%86AA%m3IS~r0eK<@O<{CRb!<8S5(#->a%6LKX=7_D5(oqk2RZ~05Ca2324-n&bY*fX5C{Sg2RZ@}5JCoR"
    "VRUk7cv>3@0eBJ?3KR$d5)cXk2muNL2oMSa2p9?i2pD1$3ITZ%4hjqi0TKub0tf*L0tgU71PTBU5d"
)


def yardstick() -> bytes:
    """The network as the bytes of an ONNX file: x [1, 16, 24, 24] -> y [1, 16]."""
    return base64.b85decode(_CONTENT)
