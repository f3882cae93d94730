# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: raw and hardware-wrapped keys in requests, even of the same bytes; the disk's key ioctls and all their errors without keyslots
# device: --keyslots 0 --key-types raw,wrapped
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: request_keys.unwrapped > 0
# stat: keyslots.program == 0
# stat: keyslots.nokey == 0
# stat: wrapped_keys.derive_sw_secret > 0
# stat: wrapped_keys.generate > 0
# stat: wrapped_keys.import > 0
# stat: wrapped_keys.prepare > 0

raw_and_wrapped_case
wrapped_key_ioctls_case
