# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a hardware-wrapped master key with IV_INO_LBLK_64: contents and names are encrypted with what the hardware's KDF derives
# device: --key-types raw,wrapped
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: wrapped_keys.derive_sw_secret > 0
# stat: keyslots.nokey == 0

needs_wrapped_keys
ciphertext_case ino-lblk-64 4096 wrapped
expect_native
