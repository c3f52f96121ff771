"""DeiT-S fine-tuned on CIFAR-100, 1000 epochs at batch 768 (the paper's Table 7).

The recipe of CIFAR-10, as in the paper; issue 45 names CIFAR-10 only. data/cifar100 has the folder
cifar-100-python of the Python version.
"""

_base_ = ['./deit-small_8xb96_cifar10.py']

model = dict(head=dict(num_classes=100))
data_preprocessor = dict(num_classes=100)
train_dataloader = dict(dataset=dict(type='CIFAR100', data_root='data/cifar100'))
val_dataloader = dict(dataset=dict(type='CIFAR100', data_root='data/cifar100'))
test_dataloader = val_dataloader
