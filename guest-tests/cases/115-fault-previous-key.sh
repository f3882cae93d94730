# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: broken hardware, and the verifier catches it: the key that the slot had before
# device: --keyslots 1 --fault previous-key
# stat: keyslots.replace > 0
# check: fscrypt
# expect-wrong: (the right one) and the key of /mnt/secret/
# wrong-share: 99
# stat: events.fault > 0
# stat: keyslots.nokey == 0

broken_case per-file
