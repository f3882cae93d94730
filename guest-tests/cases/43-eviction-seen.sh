# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the device reports that a removed key is in no keyslot any more
# host: ctl keyslots => no keyslot holds a key
# check: fscrypt
# stat: keyslots.evict > 0
# stat: keyslots.nokey == 0

eviction_case
