# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the disk's ioctls generate, import and prepare hardware-wrapped keys; every documented error
# device: --key-types raw,wrapped
# stat: wrapped_keys.generate > 0
# stat: wrapped_keys.import > 0
# stat: wrapped_keys.prepare > 0

wrapped_key_ioctls_case
