# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: without keyslots, too, adding and removing hardware-wrapped master keys unlocks and locks files; every documented error
# device: --keyslots 0 --key-types raw,wrapped
# check: fscrypt
# stat: request_keys.unwrapped > 0
# stat: keyslots.program == 0
# stat: keyslots.evict == 0
# stat: keyslots.nokey == 0

wrapped_key_removal_case
