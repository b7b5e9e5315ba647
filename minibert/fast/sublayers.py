"""The page's two sub-layers with prepared products: query, key and value in one, the activation in the other's end.

They compute so only on the CPU, in float32, without gradients, and where nobody watches or has replaced what they pass
over; otherwise the page's own `forward` does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..model import Activation, FeedForward, MultiHeadAttention
from .attention import KernelAttention, mixable
from .kernels import KernelActivation, formula_name
from .linear import Arithmetic, Product
from .watching import watched


class ProductAttention(MultiHeadAttention):
    """Every position gathers from every other, in H independent ways. x (B, S, D), mask or None -> (B, S, D)"""

    products: tuple[Product, Product]
    products_apart: tuple[Product, Product]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """As the page, with the parts that are the page's own."""
        if not (fit(x) and self.ready() and alike(*self.inner())):
            return super().forward(x, mask)
        into, back = self.products
        sources = mixable(into.packed.multiply(x))
        q, k, v = sources.unflatten(-1, (3, -1, self.head_size)).permute(2, 0, 3, 1, 4)  # each (B, H, S, K)
        if q.dtype != x.dtype and (
            type(self.core) is not KernelAttention or watched(self.core) or self.core.explicit()
        ):
            q, k, v = q.float(), k.float(), v.float()  # whoever looks or computes there finds the page's dtype
        bias = None if self.relative is None else self.relative(q, k)
        mixed = self.core(q, k, v, mask, bias)
        return back.packed.multiply(mixed.transpose(1, 2).flatten(2)).to(x.dtype)

    def ready(self) -> bool:
        """Whether the products stand for the layers, which is seen to."""
        into, back = self.products
        return into.stands_for(*self.inner()) and back.stands_for(self.out)

    def first_only(self) -> tuple[Product, Product]:
        """The query's product by itself and that of keys and values, for when only few positions ask."""
        for product, layers in zip(self.products_apart, ((self.query,), (self.key, self.value)), strict=True):
            product.stands_for(*layers)  # lays out; that they may be was seen with `products`
        return self.products_apart

    def inner(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        """The layers that read the same input."""
        return self.query, self.key, self.value


class ProductFeedForward(FeedForward):
    """Each position by itself: widen, bend, narrow. (B, S, D) -> (B, S, D)"""

    products: tuple[Product, Product]

    def forward(self, x: Tensor) -> Tensor:
        """As the page, with the parts that are the page's own."""
        bent = type(self.activation) in (Activation, KernelActivation) and not watched(self.activation)
        name = formula_name(self.activation) if bent else None
        if not (name and fit(x) and self.ready()):
            return super().forward(x)
        up, down = self.products
        return down.packed.multiply(up.packed.multiply(x, name)).to(x.dtype)

    def ready(self) -> bool:
        """Whether the products stand for the layers, which is seen to."""
        up, down = self.products
        return up.stands_for(self.up) and down.stands_for(self.down)


def fit(x: Tensor) -> bool:
    """Whether products are made of such a tensor, here and now."""
    return (
        type(x) is Tensor
        and x.dtype is torch.float32
        and x.is_cpu
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def alike(*layers: nn.Linear) -> bool:
    """Whether their outputs, side by side, can be told apart again by cutting evenly."""
    return len({layer.weight.shape for layer in layers}) == 1


def give_products(part: ProductAttention | ProductFeedForward, arithmetic: Arithmetic) -> None:
    """What a sub-layer needs to compute so."""
    part.products = Product(arithmetic), Product(arithmetic)
    if isinstance(part, ProductAttention):
        part.products_apart = Product(arithmetic), Product(arithmetic)
