"""mmpretrain's runtime, and the hook that grows networks."""

_base_ = ['mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['bvit_mm'], allow_failed_imports=False)

custom_hooks = [dict(type='bvit_mm.StageSwitchHook')]
# Stated without the _scope_ that comes with a base of another package, which
# mmpretrain's browse_dataset.py would hand to the visualizer.
visualizer = dict(
    _delete_=True,
    type='UniversalVisualizer',
    vis_backends=[dict(type='LocalVisBackend')],
)
