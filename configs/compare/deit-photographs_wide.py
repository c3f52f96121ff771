"""The photographs with a network as deep and wide as DeiT-Ti, for a GPU; see deit-photographs.py.

python tools/make_photographs.py data/photographs --packages
python tools/compare.py configs/compare/deit-photographs_wide.py --jobs 8
"""

_base_ = ['./deit-photographs.py']

model = dict(
    backbone=dict(
        arch=dict(embed_dims=192, num_layers=12, num_heads=6, feedforward_channels=768),
        drop_path_rate=0.1,
        training_stages=[
            dict(heads=3, hidden=384, grid=4),
            dict(heads=4, hidden=576, grid=6),
            dict(heads=6, hidden=768, grid=8),
        ],
    ),
    head=dict(in_channels=192),
)

optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(full_epochs=60)
