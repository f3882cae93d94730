# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: broken hardware, and the verifier catches it: all data units of a request get the DUN of the first
# device: --fault dun-not-incremented
# check: fscrypt
# expect-wrong: (too low)
# wrong-share: 90-99
# stat: events.fault > 0
# stat: keyslots.nokey == 0

broken_case per-file
