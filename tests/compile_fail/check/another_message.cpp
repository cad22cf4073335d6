// EXPECT: a message no compiler prints
#if !defined(COFFERDAM_EXPECT_OK)
static_assert(false, "the message it prints");
#endif
