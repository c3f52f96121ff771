"""A small DeiT on the letters of typefaces that it has not seen; see deit-digits.py.

python tools/make_letters.py data/letters --packages
python tools/compare.py configs/compare/deit-letters.py
"""

_base_ = ['./deit-digits.py']

model = dict(data_preprocessor=dict(mean=[51.4] * 3, std=[95.2] * 3), head=dict(num_classes=26))
train_dataloader = dict(dataset=dict(data_root='data/letters/train'))
val_dataloader = dict(dataset=dict(data_root='data/letters/val'))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=2e-3))
