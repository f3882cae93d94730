# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: on an engine without keyslots, too, removing a key locks its files, and adding it again unlocks them
# device: --keyslots 0
# check: fscrypt
# stat: keyslots.program == 0
# stat: keyslots.nokey == 0

key_removal_case
