# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: f2fs: hardware-wrapped master keys with IV_INO_LBLK_64 and _32, native and verified on the image
# device: --key-types raw,wrapped
# needs: CONFIG_F2FS_FS mkfs.f2fs
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: wrapped_keys.derive_sw_secret > 0
# stat: keyslots.nokey == 0

needs_wrapped_keys
FS=f2fs
policies_case wrapped_dir ino-lblk-64 ino-lblk-32
