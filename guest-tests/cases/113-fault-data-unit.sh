# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: broken hardware, and the verifier catches it: data units of 512 bytes where 4096 were programmed
# device: --fault data-unit=512
# check: fscrypt
# expect-wrong: 512 of its 4096 bytes are right
# wrong-share: 100
# stat: events.fault > 0
# stat: keyslots.nokey == 0

broken_case per-file
