# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: raw and hardware-wrapped keys side by side in two keyslots, even of the same bytes
# device: --key-types raw,wrapped --keyslots 2
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.replace > 0
# stat: keyslots.nokey == 0

raw_and_wrapped_case
