# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: what Android has: f2fs on a UFS controller with crypto, files of every policy, native and verified on the image
# attach: ufs
# device: --personality ufs-3.1
# needs: CONFIG_F2FS_FS mkfs.f2fs
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.program > 0
# stat: keyslots.nokey == 0

FS=f2fs
policies_case encrypted_dir per-file ino-lblk-64 ino-lblk-32
