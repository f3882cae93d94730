# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: broken hardware, and the verifier catches it: data unit numbers lose their upper half
# device: --fault dun-32-bit
# check: fscrypt
# expect-wrong: (the index in the file)
# wrong-share: 100
# stat: events.fault > 0
# stat: keyslots.nokey == 0

broken_case ino-lblk-64 unnoticed
