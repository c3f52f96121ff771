# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A store of files that stands for one in the net."""

from mmengine.fileio import FileClient, LocalBackend
from mmengine.fileio.backends import backends, prefix_to_backends


class Bucket(LocalBackend):
    """Stands for a store in the net: paths below a folder, without times."""

    root = ''

    def _local(self, path):
        return str(path).replace('s3://', f'{self.root}/')

    def get(self, filepath):
        return super().get(self._local(filepath))

    def put(self, obj, filepath):
        super().put(obj, self._local(filepath))

    def isfile(self, filepath):
        return super().isfile(self._local(filepath))

    def remove(self, filepath):
        super().remove(self._local(filepath))

    def list_dir_or_file(self, dir_path, *args, **kwargs):
        return super().list_dir_or_file(self._local(dir_path), *args, **kwargs)


def patched_store(tmp_path, monkeypatch):
    """A store whose addresses begin with s3://."""
    monkeypatch.setattr(Bucket, 'root', str(tmp_path / 'bucket'))
    for known in (backends, FileClient._backends):
        monkeypatch.setitem(known, 'petrel', Bucket)
    for known in (prefix_to_backends, FileClient._prefix_to_backends):
        monkeypatch.setitem(known, 's3', Bucket)
    monkeypatch.setattr(FileClient, '_instances', {})
    monkeypatch.setattr('mmengine.fileio.io.backend_instances', {})
    return tmp_path / 'bucket'
