// EXPECT: with or without
static_assert(false, "with or without the macro");
