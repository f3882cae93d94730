# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: ciphertext on the image is what fscrypt defines: IV_INO_LBLK_64, data units of 4096 bytes
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.nokey == 0

ciphertext_case ino-lblk-64 4096
expect_native
