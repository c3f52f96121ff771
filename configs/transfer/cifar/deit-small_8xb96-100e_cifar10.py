"""DeiT-S fine-tuned on CIFAR-10 in 100 epochs: a short recipe of ours.

A tenth of the authors' 1000 epochs, 6,600 iterations, with all else unchanged. The paper has no
number for it.
"""

_base_ = ['./deit-small_8xb96_cifar10.py']

train_cfg = dict(max_epochs=100)
