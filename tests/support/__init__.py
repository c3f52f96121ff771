# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What tests share. No test module imports another one."""
