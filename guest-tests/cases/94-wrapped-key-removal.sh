# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: adding and removing hardware-wrapped master keys unlocks and locks files; every documented error
# device: --key-types raw,wrapped
# check: fscrypt
# stat: keyslots.evict > 0
# stat: keyslots.nokey == 0

wrapped_key_removal_case
